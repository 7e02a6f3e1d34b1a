"""`dskd eval --tasks`: asks the questions of lm-evaluation-harness tasks, and prints the scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dskd_ds.commands.task_options import TaskOptions
from dskd_ds.data.chat import ChatFormat
from dskd_ds.errors import InputError
from dskd_ds.evaluation.items import ItemScores
from dskd_ds.evaluation.metrics import METRICS
from dskd_ds.evaluation.result import write_task_scores
from dskd_ds.evaluation.tasks.catalogue import EvalTask, tasks_named
from dskd_ds.evaluation.tasks.documents import (
    HARNESS_FOLDER,
    fit_prompt,
    prompt_format,
    write_documents,
)
from dskd_ds.evaluation.tasks.harness import check_harness, score_tasks
from dskd_ds.evaluation.tasks.questions import AskedQuestion, read_task
from dskd_ds.evaluation.word_tasks import (
    WORD_TASKS,
    WordItems,
    score_words,
    stored_names,
)
from dskd_ds.models.named import NamedModel
from dskd_ds.spec import RunSpec
from dskd_ds.spec.recipe import RecipeSpec


def evaluate_tasks(
    output: str | Path,
    models: dict[str, NamedModel],
    options: TaskOptions,
    recipe: RecipeSpec,
    prompt_model: NamedModel,
    spec: RunSpec | None = None,
) -> int:
    """Ask every model the questions, store the scores below `output`, and print a table.

    prompt_model: its tokenizer makes the prompts of all models, so that their scores can be paired.
    spec: its [data] chat_template renders them (default: the tokenizer's own); its WordNet has the
    sentences of the task `wic`.
    Returns the exit code. Raises InputError if a task or its data is unknown, or if the harness is
    not installed.
    """
    # A wrong name is reported before anything is read or loaded.
    tasks = tasks_named([name for name in options.names if name not in WORD_TASKS])
    word_names = [name for name in options.names if name in WORD_TASKS]
    words = WordItems.read(word_names, spec, prompt_model, options.limit)
    if tasks:
        check_harness()
        choice = spec.data.chat_template if spec else "tokenizer"
        chat = prompt_format(choice, prompt_model.tokenizer)
        _write_questions(Path(output) / HARNESS_FOLDER, tasks, options, recipe, chat)
    for name, model in models.items():
        print(f"asking the {name}: {model.name}", flush=True)
        items = _score_questions(Path(output) / HARNESS_FOLDER, tasks, options, name, model)
        if word_names:
            items += score_words(model, name, prompt_model, words)
        content = write_task_scores(output, items)
    print_task_scores({name: content[name] for name in stored_names(options.names)}, list(models))
    print(f"stored in {Path(output) / 'evaluation'}")
    if tasks:
        print(f"prompts and harness files in {Path(output) / HARNESS_FOLDER}")
    return 0


def _write_questions(
    folder: Path,
    tasks: Sequence[EvalTask],
    options: TaskOptions,
    recipe: RecipeSpec,
    chat: ChatFormat,
) -> None:
    """Write the prompts and harness files of all tasks, and print what they hold."""
    if options.max_shots is not None:
        tasks = [replace(task, num_shots=min(task.num_shots, options.max_shots)) for task in tasks]
    for task in tasks:
        asked = read_task(task, options.data_dir, options.limit, options.seed)
        if options.max_prompt_tokens is not None:
            asked = _fitting(task, asked, chat, recipe, options.max_prompt_tokens)
        print(f"{task.name}: {task.title}, {len(asked)} questions", flush=True)
        write_documents(folder, task, asked, chat, recipe, options.is_label_only)


def _score_questions(
    folder: Path, tasks: Sequence[EvalTask], options: TaskOptions, name: str, model: NamedModel
) -> list[ItemScores]:
    """Return a model's scores of the tasks that lm-evaluation-harness asks."""
    if not tasks:
        return []
    return score_tasks(
        model, name, tasks, folder=folder, batch_size=options.batch_size, seed=options.seed
    )


def _fitting(
    task: EvalTask,
    asked: list[AskedQuestion],
    chat: ChatFormat,
    recipe: RecipeSpec,
    max_tokens: int,
) -> list[AskedQuestion]:
    """Return the questions with as many of their shots as fit into `max_tokens` tokens.

    Prints how many were shortened or left out. Raises InputError if none fits.
    """
    fitted = [fit_prompt(task, question, chat, recipe, max_tokens) for question in asked]
    kept = [question for question in fitted if question is not None]
    if not kept:
        raise InputError(
            f"--max-prompt-tokens {max_tokens}: no question of {task.name} fits.\n"
            "  raise it, or leave it out."
        )
    shots = sum(len(question.shots) for question in kept) / len(kept)
    num_lost = len(asked) - len(kept)
    print(f"{task.name}: {shots:.2f} shots on average, {num_lost} questions too long, left out")
    return kept


def print_task_scores(content: dict[str, Any], models: Sequence[str]) -> None:
    """Print one line per task and metric, one column per model."""
    width = max(18, *(len(name) + 2 for name in models))
    print(f"\n{'':<46}" + "".join(f"{name:>{width}}" for name in models))
    for task, by_model in content.items():
        shown = [name for name in models if name in by_model]
        questions = by_model[shown[0]]["questions"]
        what = "pairs" if task in stored_names(WORD_TASKS) else "questions"
        print(f"{task} ({questions} {what})")
        for metric in METRICS:
            if metric.key not in by_model[shown[0]]:
                continue
            cells = "".join(f"{_cell(by_model[name][metric.key]):>{width}}" for name in shown)
            print(f"  {metric.label:<44}{cells}")


def _cell(score: dict[str, float | None]) -> str:
    error = score["error"]
    text = f"{score['mean']:.4f}"
    return text if error is None else f"{text} ± {error:.4f}"

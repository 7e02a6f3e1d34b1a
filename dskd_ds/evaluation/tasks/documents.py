"""Writes a task's questions as prompts, with YAML files that lm-evaluation-harness reads.

The folder is complete: `lm_eval --model hf --model_args pretrained=STUDENT,softmax_dtype=float32
--include_path FOLDER --tasks arc_challenge_label` asks the same questions in a process of its own.
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from dskd_ds.data.chat import ChatFormat, chat_format
from dskd_ds.data.conversation import MalformedError, Message
from dskd_ds.data.recipes.prompts import conversation
from dskd_ds.errors import InputError
from dskd_ds.evaluation.tasks.catalogue import EvalTask
from dskd_ds.evaluation.tasks.questions import AskedQuestion
from dskd_ds.files.atomic import write_text
from dskd_ds.spec.recipe import RecipeSpec

HARNESS_FOLDER = "harness"
"""Folder of the run directory with prompts and YAML files, for `lm_eval --include_path`."""
TEMPLATES = ("label.yaml", "exact.yaml", "f1.yaml", "scoring.py")
MMLU_SYSTEM = (
    "You are a helpful assistant for multiple-choice questions. Reply with the letter of the right"
    " option only."
)
"""The system turn of MMLU's test, which differs from that of training (docs/method.md, "The paper's
student")."""


def scorings_of(task: EvalTask, is_label_only: bool = False) -> tuple[str, ...]:
    """Return how a task is scored: names of the YAML templates.

    is_label_only: without the model's own answers. A task without choices has nothing else.
    """
    if not task.has_choices:
        return ("f1",)
    return ("label",) if is_label_only else ("label", "exact")


def written_scorings(task: EvalTask, folder: Path) -> list[str]:
    """Return the scorings of a task that `write_documents` wrote into a folder."""
    found = scorings_of(task)
    return [scoring for scoring in found if (folder / f"{task.name}_{scoring}.yaml").is_file()]


def chance_of_guess(run_dir: Path, task: str) -> float | None:
    """Return the accuracy of a guess at a task's written questions.

    None if the questions have no choices, or were not written there.
    """
    path = run_dir / HARNESS_FOLDER / f"{task}.jsonl"
    if not path.is_file():
        return None
    with path.open(encoding="utf-8") as lines:
        num_labels = [len(json.loads(line)["labels"]) for line in lines]
    if not num_labels or min(num_labels) == 0:
        return None
    return statistics.fmean(1 / count for count in num_labels)


def write_documents(
    folder: Path,
    task: EvalTask,
    asked: Sequence[AskedQuestion],
    chat: ChatFormat,
    recipe: RecipeSpec,
    is_label_only: bool = False,
) -> list[str]:
    """Write the prompts and YAML files of a task; returns the names of its harness tasks.

    recipe: its system_turn, temperature and top_p are used; the style is always `paper`.
    is_label_only: no files for the model's own answers; those of an earlier call are removed.
    Raises InputError if the chat template rejects a prompt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in TEMPLATES:
        source = resources.files("dskd_ds.evaluation.tasks").joinpath("files", name)
        with resources.as_file(source) as path:
            shutil.copyfile(path, folder / name)
    rows = [_row(task, question, chat, recipe) for question in asked]
    documents = folder / f"{task.name}.jsonl"
    write_text(documents, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    names: list[str] = []
    wanted = scorings_of(task, is_label_only)
    for scoring in scorings_of(task):
        path = folder / f"{task.name}_{scoring}.yaml"
        if scoring not in wanted:
            path.unlink(missing_ok=True)
            continue
        names.append(path.stem)
        write_text(path, _yaml(task, scoring, documents, recipe))
    return names


def fit_prompt(
    task: EvalTask, asked: AskedQuestion, chat: ChatFormat, recipe: RecipeSpec, max_tokens: int
) -> AskedQuestion | None:
    """Return the question with as many of its shots as fit into `max_tokens`; None if none does.

    Shots are dropped from the front. Raises InputError if the chat template rejects the prompt.
    """
    for num_dropped in range(len(asked.shots) + 1):
        shorter = replace(asked, shots=asked.shots[num_dropped:])
        text = render_prompt(chat, _messages(task, shorter, recipe))
        if len(chat.tokenizer(text, add_special_tokens=False)["input_ids"]) <= max_tokens:
            return shorter
    return None


def _yaml(task: EvalTask, scoring: str, documents: Path, recipe: RecipeSpec) -> str:
    """Return the YAML file of one task and scoring."""
    # JSON is YAML; it needs no quoting rules.
    content: dict[str, Any] = {
        "include": f"{scoring}.yaml",
        "task": f"{task.name}_{scoring}",
        "dataset_kwargs": {"data_files": {"test": str(documents.resolve())}},
    }
    if scoring != "label":
        content["generation_kwargs"] = {
            "until": [],
            "max_gen_toks": task.new_tokens,
            "do_sample": recipe.temperature > 0,
        }
        if recipe.temperature > 0:
            content["generation_kwargs"] |= {
                "temperature": recipe.temperature,
                "top_p": recipe.top_p,
            }
    return json.dumps(content, indent=1) + "\n"


def _row(
    task: EvalTask, asked: AskedQuestion, chat: ChatFormat, recipe: RecipeSpec
) -> dict[str, Any]:
    """Return one document: the prompt, its labels and answers."""
    question, messages = asked.question, _messages(task, asked, recipe)
    labels = sorted(option.label for option in question.options)
    prompt = render_prompt(chat, messages)
    lead = chat.lead(messages, prompt)
    return {
        "id": asked.id,
        "prompt": prompt,
        "lead": lead,
        "labels": [lead + label for label in labels],
        "gold": labels.index(question.answer) if labels else -1,
        "answer": question.answer,
        "answers": list(asked.answers),
        "topic": question.topic,
        "context": question.context,
    }


def _messages(task: EvalTask, asked: AskedQuestion, recipe: RecipeSpec) -> list[Message]:
    """Return the turns of a question; the last one is the right answer."""
    style = recipe.model_copy(update={"style": "paper"})
    messages = conversation(style, task.prompt_set, asked.shots, asked.question)
    return _with_instruction(messages, MMLU_SYSTEM) if task.name == "mmlu" else messages


def render_prompt(chat: ChatFormat, messages: list[Message]) -> str:
    """Return the text up to the beginning of the last message, the assistant's answer.

    Raises InputError if the chat template rejects it.
    """
    try:
        return chat.render(messages[:-1], generation_prompt=True)
    except MalformedError as error:
        raise InputError(
            f"a question cannot be made a prompt: {error}.\n"
            "  set [recipe] system_turn, or another [data] chat_template."
        ) from None


def prompt_format(choice: str, tokenizer: Any) -> ChatFormat:
    """Return how prompts are rendered. choice: value of `[data] chat_template`.

    Raises InputError if there is no such template.
    """
    if choice == "tokenizer" and not tokenizer.chat_template:
        raise InputError(
            "the tokenizer has no chat template, so no prompt can be made.\n"
            "  take an instruction-tuned model, add chat_template.jinja to its folder, or set"
            ' [data] chat_template = "plain" in the spec.'
        )
    return chat_format(choice, tokenizer)


def _with_instruction(messages: list[Message], text: str) -> list[Message]:
    """Replace the text of the system turn, if there is one."""
    first = messages[0]
    return [{**first, "content": text}, *messages[1:]] if first["role"] == "system" else messages

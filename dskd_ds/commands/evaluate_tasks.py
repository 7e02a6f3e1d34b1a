"""`dskd eval --tasks`: asks the questions of lm-evaluation-harness tasks, and prints the scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dskd_ds.evaluation.metrics import METRICS
from dskd_ds.evaluation.result import write_task_scores
from dskd_ds.evaluation.tasks.catalogue import tasks_named
from dskd_ds.evaluation.tasks.documents import write_documents
from dskd_ds.evaluation.tasks.harness import check_harness, score_tasks
from dskd_ds.evaluation.tasks.questions import read_task
from dskd_ds.models.named import NamedModel
from dskd_ds.spec.recipe import RecipeSpec

HARNESS_FOLDER = "harness"
"""Folder of the run directory with prompts and YAML files, for `lm_eval --include_path`."""


@dataclass(frozen=True)
class TaskOptions:
    """What the command line says of the tasks."""

    names: tuple[str, ...]
    data_dir: str | None = None
    limit: int | None = None
    batch_size: int = 8
    seed: int = 0
    """Of the draw of shots."""


def evaluate_tasks(
    output: str | Path,
    models: dict[str, NamedModel],
    options: TaskOptions,
    recipe: RecipeSpec,
) -> int:
    """Ask every model the questions, store the scores below `output`, and print a table.

    Returns the exit code. Raises InputError if a task or its data is unknown, or if the harness is
    not installed.
    """
    tasks = tasks_named(options.names)
    check_harness()
    folder = Path(output) / HARNESS_FOLDER
    # One tokenizer's prompts for all models, so that their scores can be paired.
    tokenizer = next(iter(models.values())).tokenizer
    for task in tasks:
        asked = read_task(task, options.data_dir, options.limit, options.seed)
        print(f"{task.name}: {task.title}, {len(asked)} questions", flush=True)
        write_documents(folder, task, asked, tokenizer, recipe)
    for name, model in models.items():
        print(f"asking the {name}: {model.name}", flush=True)
        items = score_tasks(model, name, tasks, folder, options.batch_size, options.seed)
        content = write_task_scores(output, items)
    print_task_scores({task.name: content[task.name] for task in tasks}, list(models))
    print(f"stored in {Path(output) / 'evaluation'}; prompts and harness files in {folder}")
    return 0


def print_task_scores(content: dict[str, Any], models: Sequence[str]) -> None:
    """Print one line per task and metric, one column per model."""
    width = max(18, *(len(name) + 2 for name in models))
    print(f"\n{'':<46}" + "".join(f"{name:>{width}}" for name in models))
    for task, by_model in content.items():
        shown = [name for name in models if name in by_model]
        questions = by_model[shown[0]]["questions"]
        print(f"{task} ({questions} questions)")
        for metric in METRICS:
            if metric.key not in by_model[shown[0]]:
                continue
            cells = "".join(f"{_cell(by_model[name][metric.key]):>{width}}" for name in shown)
            print(f"  {metric.label:<44}{cells}")


def _cell(score: dict[str, float | None]) -> str:
    error = score["error"]
    text = f"{score['mean']:.4f}"
    return text if error is None else f"{text} ± {error:.4f}"

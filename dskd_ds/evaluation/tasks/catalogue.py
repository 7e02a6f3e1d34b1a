"""The tasks that `dskd eval --tasks` knows: where questions come from and how they are asked."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dskd_ds.data.recipes.question_sets import (
    Question,
    read_arc,
    read_commonsense_qa,
    read_mmlu,
    read_piqa,
    read_squad,
)
from dskd_ds.errors import InputError
from dskd_ds.evaluation.tasks.package_rows import read_logiqa, read_medmcqa, read_quartz
from dskd_ds.spec.data import SourceSpec


@dataclass(frozen=True)
class EvalTask:
    """A set of questions with one right answer each."""

    name: str
    title: str
    read: Callable[[dict[str, Any]], Question]
    """Turns a row into a question; its docstring lists the columns of a row."""
    source: SourceSpec | None
    """The questions on the hub. None: they come by file only."""
    shots: SourceSpec | None = None
    """Where shots come from on the hub. None: from the questions themselves, split by hash."""
    num_shots: int = 5
    new_tokens: int = 1
    """Tokens that a model may answer with."""
    is_macro: bool = False
    """Whether the paper's score is the unweighted mean over topics."""
    has_choices: bool = True

    @property
    def prompt_set(self) -> str:
        """Name of the set whose wording is used (data/recipes/prompts.py)."""
        return {"arc_challenge": "arc", "arc_easy": "arc", "squadv2": "squad"}.get(
            self.name, self.name
        )


def _hub(path: str, split: str, subset: str | None = None) -> SourceSpec:
    return SourceSpec(path=path, split=split, subset=subset)


_TASKS = (
    EvalTask(
        "arc_challenge",
        "ARC-Challenge (validation, as in the paper)",
        read_arc,
        _hub("allenai/ai2_arc", "validation", "ARC-Challenge"),
        _hub("allenai/ai2_arc", "train", "ARC-Challenge"),
    ),
    EvalTask(
        "arc_easy",
        "ARC-Easy (test)",
        read_arc,
        _hub("allenai/ai2_arc", "test", "ARC-Easy"),
        _hub("allenai/ai2_arc", "train", "ARC-Easy"),
    ),
    EvalTask(
        "csqa",
        "CommonsenseQA (validation)",
        read_commonsense_qa,
        _hub("tau/commonsense_qa", "validation"),
        _hub("tau/commonsense_qa", "train"),
    ),
    EvalTask(
        "piqa",
        "PIQA (validation)",
        read_piqa,
        _hub("baber/piqa", "validation"),
        _hub("baber/piqa", "train"),
        new_tokens=2,
    ),
    EvalTask(
        "mmlu",
        "MMLU (test; shots of the same subject)",
        read_mmlu,
        _hub("cais/mmlu", "test", "all"),
        _hub("cais/mmlu", "dev", "all"),
        is_macro=True,
    ),
    EvalTask(
        "squadv2",
        "SQuAD 2.0 (validation; shot of the same context)",
        read_squad,
        _hub("rajpurkar/squad_v2", "validation"),
        num_shots=1,
        new_tokens=10,
        has_choices=False,
    ),
    EvalTask("quartz", "QuaRTz (two choices)", read_quartz, None),
    EvalTask("logiqa", "LogiQA (four choices)", read_logiqa, None, num_shots=2),
    EvalTask("medmcqa", "MedMCQA (four choices)", read_medmcqa, None),
)
TASKS: dict[str, EvalTask] = {task.name: task for task in _TASKS}


def tasks_named(names: Sequence[str]) -> list[EvalTask]:
    """Return the tasks with these names. Raises InputError that suggests the closest name."""
    for name in names:
        if name not in TASKS:
            near = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known tasks: {', '.join(TASKS)}."
            raise InputError(f"--tasks {name}: there is no such task.\n  {hint}")
    return [TASKS[name] for name in dict.fromkeys(names)]

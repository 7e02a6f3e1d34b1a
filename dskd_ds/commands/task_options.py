"""The options of question answering, which `dskd eval` and its helper processes share."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from dskd_ds.runtime.arguments import at_least


@dataclass(frozen=True)
class TaskOptions:
    """What the command line says of the tasks."""

    names: tuple[str, ...]
    data_dir: str | None = None
    limit: int | None = None
    batch_size: int = 8
    max_prompt_tokens: int | None = None
    """Longest prompt; shots are dropped until it fits. None: any length."""
    max_shots: int | None = None
    """Most shots before a question. None: the task's own number."""
    is_label_only: bool = False
    """Whether the model's own answers are not asked for."""
    seed: int = 0
    """Of the draw of shots."""


def add_task_options(command: argparse.ArgumentParser) -> None:
    """Add the options of question answering."""
    tasks = command.add_argument_group("question answering (lm-evaluation-harness)")
    tasks.add_argument(
        "--tasks",
        metavar="NAME,...",
        help="measure these tasks instead of held-out text: arc_challenge, arc_easy, csqa, piqa,"
        " mmlu, squadv2, quartz, logiqa, medmcqa; or wic, simlex (states of words)",
    )
    tasks.add_argument(
        "--data-dir",
        metavar="DIR",
        help="read DIR/TASK.jsonl (and DIR/TASK.shots.jsonl) instead of the hub",
    )
    tasks.add_argument(
        "--limit", type=at_least(1), metavar="N", help="ask only N questions of each task"
    )
    tasks.add_argument(
        "--batch-size",
        type=at_least(1),
        default=8,
        metavar="N",
        help="questions per forward pass (default 8); another number changes scores by rounding",
    )
    tasks.add_argument(
        "--max-prompt-tokens",
        type=at_least(1),
        metavar="N",
        help="drop shots until a prompt has at most N tokens; leave out a question that is longer"
        " without shots",
    )
    tasks.add_argument(
        "--max-shots",
        type=at_least(0),
        metavar="N",
        help="most shots before a question (default: 5; SQuAD 2.0 1, LogiQA 2)",
    )
    tasks.add_argument(
        "--scoring",
        choices=("all", "label"),
        default="all",
        help="label: only the labels' log-probabilities, in one forward pass per question;"
        " all (default): the model's own answer too",
    )
    tasks.add_argument(
        "--output",
        metavar="DIR",
        help="folder of the scores when no spec is given (default: evaluated)",
    )


def task_argv_of(args: argparse.Namespace) -> list[str]:
    """Return the options of question answering as arguments; none without --tasks."""
    if args.tasks is None:
        return []
    names = ("tasks", "data_dir", "limit", "batch_size", "max_prompt_tokens", "max_shots")
    given = {name: getattr(args, name) for name in (*names, "scoring")}
    return [
        argument
        for name, value in given.items()
        if value is not None
        for argument in (f"--{name.replace('_', '-')}", str(value))
    ]


def task_options(args: argparse.Namespace) -> TaskOptions:
    """Return what the command line says of the tasks."""
    names = tuple(name.strip() for name in args.tasks.split(",") if name.strip())
    return TaskOptions(
        names=names,
        data_dir=args.data_dir,
        limit=args.limit,
        batch_size=args.batch_size,
        max_prompt_tokens=args.max_prompt_tokens,
        max_shots=args.max_shots,
        is_label_only=args.scoring == "label",
    )

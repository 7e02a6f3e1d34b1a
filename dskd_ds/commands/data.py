"""`dskd data ...`: makes files of conversations that `[data]` reads."""

from __future__ import annotations

import argparse
from pathlib import Path

from dskd_ds.data.continue_options import add_options, settings_of, words_of
from dskd_ds.data.recipes.question_sets import SETS
from dskd_ds.runtime.arguments import Commands, add_ranks, spec_command, spec_of

DATA_TEXT = """\
Make files of conversations to train on, in the way of the paper: `paper` writes few-shot chats
from question sets, and `continue` lets the teacher write the last answer of each."""

CONTINUE_TEXT = """\
Let the teacher write the last answer of each conversation, and cut it at a random point
(paper). The same command resumes a job that was killed.

A source reads the file with: format = "chat". With supervise = "completions" only what the
teacher wrote is a target."""


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register every command of `dskd data`."""
    group = commands.add_parser(
        "data",
        help="make training data: the paper's mixture, the teacher's continuations",
        description=DATA_TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    data = group.add_subparsers(required=True, metavar="COMMAND")
    _add_paper(data)
    _add_continue(data)


def _add_paper(data: Commands[argparse.ArgumentParser]) -> None:
    text = (
        "write the paper's mixture as chats: a quarter of CSQA, PIQA, ARC-Challenge and MMLU"
        " with 5 shots, 30 percent of SQuAD 2.0 with 1"
    )
    paper = data.add_parser(
        "paper",
        help=text,
        description=text,
        epilog='a source reads it with: format = "chat", title_field = "title"',
    )
    paper.add_argument(
        "--output", required=True, type=Path, metavar="FILE.jsonl", help="where to write"
    )
    for name, question_set in SETS.items():
        paper.add_argument(
            f"--{name}",
            metavar="PATH",
            help=f"a file (.jsonl, .json, .parquet) or hub name for {question_set.title} "
            f"(default: {question_set.source.path})",
        )
    paper.add_argument(
        "--only",
        nargs="+",
        choices=list(SETS),
        default=list(SETS),
        metavar="SET",
        help=f"use only these sets; known sets: {', '.join(SETS)}",
    )
    paper.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the random draws (default 0)"
    )
    paper.set_defaults(command=run_paper)


def run_paper(args: argparse.Namespace) -> int:
    """Write the mixture and print how much of each set it holds."""
    from dskd_ds.data.recipes.paper import write_mixture

    sources = {name: getattr(args, name) for name in args.only}
    counts = write_mixture(args.output, sources, args.seed)
    print(f"{'set':<16}{'questions':>10}{'left out':>10}{'chats':>8}")
    for name, count in counts.items():
        numbers = f"{count.num_questions:>10}{count.num_malformed:>10}{count.num_chats:>8}"
        print(f"{SETS[name].title:<16}{numbers}")
    print(f"stored in {args.output}")
    return 0


def _add_continue(data: Commands[argparse.ArgumentParser]) -> None:
    text = "let the teacher write each conversation's last answer, cut at a random point (paper)"
    command = spec_command(data, "continue", text, description=CONTINUE_TEXT)
    add_options(command)
    add_ranks(command, "write")
    command.set_defaults(command=run_continue)


def run_continue(args: argparse.Namespace) -> int:
    """Check the arguments and launch the ranks with mpirun; returns the exit code."""
    from dskd_ds.runtime import launch

    # Wrong input is reported here, once, and not by every rank.
    spec_of(args)
    settings_of(args)
    return launch.run(
        launch.continue_command(args.spec, args.set, num_ranks=args.ranks, flags=words_of(args))
    )

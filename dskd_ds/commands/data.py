"""`dskd data ...`: make the files that `[data]` reads."""

from __future__ import annotations

import argparse
from pathlib import Path

from dskd_ds.data.continue_options import add_options, settings_of, words_of
from dskd_ds.data.recipes.question_sets import SETS
from dskd_ds.runtime.arguments import Commands, spec_command, spec_of


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register every command of `dskd data`."""
    text = "make training data: the paper's mixture, the teacher's continuations"
    data = commands.add_parser("data", help=text).add_subparsers(required=True, metavar="COMMAND")
    _add_paper(data)
    _add_continue(data)


def _add_paper(data: Commands[argparse.ArgumentParser]) -> None:
    text = (
        "write the paper's mixture as conversations: a quarter of CSQA, PIQA, ARC-Challenge and MMLU with 5 shots, 30 percent of"
        " SQuAD 2.0 with 1"
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
    for name, wanted in SETS.items():
        paper.add_argument(
            f"--{name}",
            metavar="PATH",
            help=f"a file (.jsonl, .json, .parquet) or hub name for {wanted.title} "
            f"(default: {wanted.source.path})",
        )
    paper.add_argument(
        "--only",
        nargs="+",
        choices=list(SETS),
        default=list(SETS),
        metavar="SET",
        help=f"leave the other sets out; sets: {', '.join(SETS)}",
    )
    paper.add_argument("--seed", type=int, default=0, help="seed of what is drawn (default 0)")
    paper.set_defaults(command=run_paper)


def run_paper(args: argparse.Namespace) -> int:
    """Write the mixture, print what went in."""
    from dskd_ds.data.recipes.paper import write_mixture

    counts = write_mixture(
        args.output, {name: getattr(args, name) for name in args.only}, args.seed
    )
    print(f"{'set':<16}{'questions':>10}{'left out':>10}{'chats':>8}")
    for name, count in counts.items():
        print(
            f"{SETS[name].title:<16}{count.num_questions:>10}{count.num_malformed:>10}{count.num_chats:>8}"
        )
    print(f"stored in {args.output}")
    return 0


def _add_continue(data: Commands[argparse.ArgumentParser]) -> None:
    text = "let the teacher end conversations itself: each last answer is replaced by its own, cut at a random point (paper)"
    command = spec_command(data, "continue", text)
    command.epilog = (
        'A killed job goes on where it stopped. A source reads the file with: format = "chat"; only the teacher\'s words'
        ' are targets with supervise = "completions".'
    )
    add_options(command)
    command.add_argument(
        "--ranks",
        type=int,
        default=1,
        help="MPI ranks that write (default 1); the result is the same",
    )
    command.set_defaults(command=run_continue)


def run_continue(args: argparse.Namespace) -> int:
    """Check, launch under mpirun."""
    from dskd_ds.runtime import launch

    spec_of(args)
    settings_of(args)
    return launch.run(launch.continue_command(args.spec, args.set, args.ranks, words_of(args)))

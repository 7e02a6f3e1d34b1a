"""`dskd data ...`: make the files that `[data]` reads."""

from __future__ import annotations

import argparse
from pathlib import Path

from dskd_ds.command_line import Commands
from dskd_ds.data.recipes.question_sets import SETS


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register every command of `dskd data`."""
    data = commands.add_parser("data", help="make training data: the paper's mixture").add_subparsers(required=True, metavar="COMMAND")
    _add_paper(data)


def _add_paper(data: Commands[argparse.ArgumentParser]) -> None:
    text = ("write the paper's mixture as conversations: a quarter of CSQA, PIQA, ARC-Challenge and MMLU with 5 shots, 30 percent of"
            " SQuAD 2.0 with 1")
    paper = data.add_parser("paper", help=text, description=text, epilog='a source reads it with: format = "chat", title_field = "title"')
    paper.add_argument("--output", required=True, type=Path, metavar="FILE.jsonl", help="where to write")
    for name, wanted in SETS.items():
        paper.add_argument(f"--{name}", metavar="PATH", help=f"a file (.jsonl, .json, .parquet) or hub name for {wanted.title} "
                                                             f"(default: {wanted.source.path})")
    paper.add_argument("--only", nargs="+", choices=list(SETS), default=list(SETS), metavar="SET",
                       help=f"leave the other sets out; sets: {', '.join(SETS)}")
    paper.add_argument("--seed", type=int, default=0, help="seed of what is drawn (default 0)")
    paper.set_defaults(command=run_paper)


def run_paper(args: argparse.Namespace) -> int:
    """Write the mixture, print what went in."""
    from dskd_ds.data.recipes.paper import write_mixture

    counts = write_mixture(args.output, {name: getattr(args, name) for name in args.only}, args.seed)
    print(f"{'set':<16}{'questions':>10}{'left out':>10}{'chats':>8}")
    for name, count in counts.items():
        print(f"{SETS[name].title:<16}{count.num_questions:>10}{count.num_malformed:>10}{count.num_chats:>8}")
    print(f"stored in {args.output}")
    return 0

"""`dskd compare`: says whether groups of runs differ by more than text and seeds explain."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dskd_ds.errors import InputError
from dskd_ds.files.output import writing_output
from dskd_ds.runtime.arguments import Commands

if TYPE_CHECKING:
    from dskd_ds.evaluation.groups import Group

TEXT = """\
Compare runs by what `dskd eval` measured on each. The first group is the reference; every other
group is compared with it, item by item on the same text.

A group is one run directory, or several that differ only in their seed:
  dskd compare runs/kd runs/dskd
  dskd compare kd=runs/kd-0,runs/kd-1,runs/kd-2 dskd=runs/dskd-0,runs/dskd-1,runs/dskd-2
The model compared is the trained student (`after`); RUN_DIR:MODEL names another one that
`dskd eval` measured: teacher, before, or a name given with --model.

Prints the difference of each score with its 95 % interval. With 2 or more seeds in both groups
the interval contains the spread of seeds, and the verdict is about the settings. With one seed
it is only about these very models: another seed of the same settings may differ as much.
Writes OUTPUT/compare.html with a picture of the intervals, the curves of all runs over each
other, and the settings that differ; OUTPUT/compare.json has the same numbers."""


def add_command(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register `dskd compare`."""
    command = commands.add_parser(
        "compare",
        help="say whether runs differ by more than text and seeds explain",
        description=TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "groups",
        nargs="+",
        metavar="[NAME=]RUN[,RUN...]",
        help="a run directory, or several seeds of one setting; the first group is the reference",
    )
    command.add_argument(
        "--output",
        default="compare",
        metavar="FOLDER",
        help="folder of the page and its data (default: compare)",
    )
    command.add_argument(
        "--json", action="store_true", help="print the numbers as JSON instead of a table"
    )
    command.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Compare, print, and write the page.

    Raises InputError for what cannot be compared, or if the folder cannot be written to.
    """
    from dskd_ds.commands.compare_page import write_page
    from dskd_ds.commands.compare_text import as_json, print_table
    from dskd_ds.evaluation.groups import Group, compare

    if len(args.groups) < 2:
        raise InputError(
            f"dskd compare {args.groups[0]}: one group has nothing to be compared with.\n"
            "  name a second one: dskd compare REFERENCE OTHER"
        )
    groups = [Group.of(text) for text in args.groups]
    _refuse_equal_names(groups)
    reference, *others = groups
    comparisons = [result for group in others for result in compare(reference, group)]
    content = [as_json(comparison) for comparison in comparisons]
    folder = Path(args.output)
    with writing_output(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "compare.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
        page = write_page(folder, groups, comparisons)
    if args.json:
        print(json.dumps(content, indent=1))
        return 0
    print_table(comparisons)
    print(f"\nthe page: {page}")
    return 0


def _refuse_equal_names(groups: Sequence[Group]) -> None:
    """Raise InputError if two groups have one name."""
    names = [group.name for group in groups]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"dskd compare: two groups are named {name}.\n"
                "  give names: dskd compare first=RUN second=RUN"
            )

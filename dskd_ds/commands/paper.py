"""`dskd paper`: what the paper's authors do, and how a spec differs from it."""

from __future__ import annotations

import argparse
import json

from dskd_ds.plan.paper_check import BACKBONES, PaperCheck, backbone_of, check_paper
from dskd_ds.plan.paper_facts import FACTS
from dskd_ds.plan.paper_remarks import UNKNOWN, Remark
from dskd_ds.runtime.arguments import Commands, add_overrides
from dskd_ds.spec import load_spec
from dskd_ds.spec.problems import show

TEXT = """\
Say what the authors of the paper (arXiv 2602.22351) do, or with --check how a spec differs from it.

--check lists each key with its value, the authors' value and the effect. What this program never
does as the authors, and choices where their value is not known, are listed apart.
Exit code of --check: 0 if there are only such differences, 1 if there are others."""


def add_command(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register `dskd paper`."""
    command = commands.add_parser(
        "paper",
        help="what the paper's authors do; --check SPEC lists every difference of a spec",
        description=TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--check",
        metavar="SPEC",
        help="the run's TOML spec: a file, or one that ships (dskd init --list)",
    )
    add_overrides(command)
    command.add_argument(
        "--run",
        choices=BACKBONES,
        help="the paper's run to compare with (default: by the name of the teacher)",
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Print the facts, or the differences of a spec. Returns 1 if there are avoidable ones."""
    if args.check is None:
        _print_facts(as_json=args.json)
        return 0
    spec = load_spec(args.check, args.set)
    found = check_paper(spec, args.run or backbone_of(spec))
    if args.json:
        print(json.dumps({"spec": args.check, **found.as_json()}, indent=2))
    else:
        _print_check(args.check, found)
    return 1 if found.deviations else 0


def _print_facts(as_json: bool) -> None:
    """Print the authors' value of every key, for both runs."""
    if as_json:
        print(json.dumps([{"key": fact.key, **fact.authors._asdict()} for fact in FACTS], indent=2))
        return
    print(f"{'key':<28}{'Llama-3-8B':<40}Mistral-7B")
    for fact in FACTS:
        llama, mistral = (show(value) for value in fact.authors)
        same = "the same" if llama == mistral else mistral
        print(f"{fact.key:<28}{llama:<40}{same}")
    print("\nnot known:")
    for remark in UNKNOWN:
        print(f"{remark.about:<28}{remark.authors}")


def _print_check(path: str, found: PaperCheck) -> None:
    """Print the differences in three groups."""
    count = len(found.deviations)
    print(f"{path}, compared with the paper's run {found.backbone}: {count} deviations")
    for deviation in found.deviations:
        print(f"  {deviation}")
    _print_remarks("deliberate, in every run of this program:", found.deliberate)
    _print_remarks("not known of the authors, chosen here:", found.unknown)


def _print_remarks(title: str, remarks: list[Remark]) -> None:
    print(f"\n{title}")
    for remark in remarks:
        print(f"  {remark.about}: {remark.here}; the authors: {remark.authors}")
        print(f"    {remark.effect}")

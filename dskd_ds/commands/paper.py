"""`dskd paper`: what the paper's authors do, how a spec differs from it, and the paper's table."""

from __future__ import annotations

import argparse
import json
import sys

from dskd_ds.plan.paper_check import BACKBONES, PaperCheck, backbone_of, check_paper
from dskd_ds.plan.paper_facts import FACTS
from dskd_ds.plan.paper_remarks import UNKNOWN, Remark
from dskd_ds.runtime.arguments import Commands, add_overrides, at_least
from dskd_ds.spec import load_spec
from dskd_ds.spec.problems import show

TEXT = """\
Say what the authors of the paper (arXiv 2602.22351) do, or with --check how a spec differs from it.
With a RECIPE, make the paper's table: data, the teacher's answers, dictionaries, every arm with its
seeds, scores, table.md and a page.

  dskd paper ds_configs/paper/small.toml --jobs 2

A recipe is a study file (dskd sweep --help) with [[prepare]] commands, [tasks] and baselines. The
same command goes on where it was stopped.

--check lists each key with its value, the authors' value and the effect. What this program never
does as the authors, and choices where their value is not known, are listed apart.
Exit code of --check: 0 if there are only such differences, 1 if there are others."""


def add_command(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register `dskd paper`."""
    command = commands.add_parser(
        "paper",
        help="what the paper's authors do; --check SPEC lists every difference of a spec; RECIPE"
        " makes the paper's table",
        description=TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "recipe", nargs="?", help="the recipe's TOML file, or one that ships (ds_configs/paper/)"
    )
    command.add_argument(
        "--jobs",
        type=at_least(1),
        default=1,
        metavar="N",
        help="runs of the recipe at a time, and ranks that prepare (default 1)",
    )
    command.add_argument(
        "--dry-run", action="store_true", help="list the recipe's stages and runs, and their time"
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
    """Make the table of a recipe, or print the facts, or the differences of a spec.

    Returns 1 if there are avoidable differences, or if a run of the recipe failed.
    """
    if args.recipe is not None:
        return make_table(args.recipe, num_jobs=args.jobs, is_dry=args.dry_run)
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


def make_table(recipe: str, num_jobs: int, is_dry: bool = False) -> int:
    """Run a recipe, or list what it would run; returns the exit code. Raises InputError."""
    from dskd_ds.commands.paper_report import write_report
    from dskd_ds.commands.sweep import print_plan
    from dskd_ds.study.runs import study_runs
    from dskd_ds.study.spec import load_study
    from dskd_ds.study.work import do_work

    study = load_study(recipe)
    runs = study_runs(study)
    if is_dry:
        print_plan(study, runs, num_jobs)
        return 0
    failures = do_work(study, runs, num_jobs)
    write_report(study, runs)
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


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

"""`dskd sweep`: runs every arm of a study with every seed, and compares them."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dskd_ds.runtime.arguments import Commands, at_least

if TYPE_CHECKING:
    from dskd_ds.study.runs import Run
    from dskd_ds.study.spec import StudySpec

TEXT = """\
Train and measure every arm of a study with every seed, and say which arms differ.

A study file names a base spec and what each arm overrides in it:

  name = "kd-or-dskd"
  base = "my.toml"
  folder = "studies/kd-or-dskd"
  seeds = [0, 1, 2]
  [settings]                     # for all arms
  "train.num_steps" = 200
  [arms.kd]                      # the first arm is the reference
  "loss.sense_weight" = 0.0
  [arms.dskd]                    # the base spec itself
  [grid]                         # and every combination of these values
  "loss.pull" = [0.5, 1.0, 2.0]

Arms with equal settings for building share a dictionary, and runs that cut the same student share
the cut. With "teacher.source" = "cache_or_live" in [settings] they share the teacher's signal too:
each block is asked once, whatever the arms and seeds. The best arm is chosen on one part of the
held-out documents (dev_share) and reported on the other; other tasks are reported whole. [controls]
names what an arm must beat besides the reference: dskd = ["shuffled"]. The folder gets
results/ARM-SEED.json, logs/, study.md, compare.html and, for a grid of one or two settings,
grid.png.

The same command goes on where a study was stopped: finished runs are not touched, a run that was
training resumes from its checkpoint."""


def add_command(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register `dskd sweep`."""
    command = commands.add_parser(
        "sweep",
        help="run the arms of a study with several seeds, and compare them",
        description=TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "study", help="the study's TOML file, or one that ships (dskd init --list)"
    )
    command.add_argument(
        "--jobs",
        type=at_least(1),
        default=1,
        metavar="N",
        help="runs at a time (default 1); each starts all ranks of its spec on this machine",
    )
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="check every arm; print the runs, what they share, and what they cost",
    )
    command.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Run or plan a study. Raises InputError if it, or one of its arms, is invalid."""
    from dskd_ds.study.runs import study_runs
    from dskd_ds.study.spec import load_study
    from dskd_ds.study.work import do_work

    study = load_study(args.study)
    runs = study_runs(study)
    if args.dry_run:
        print_plan(study, runs, args.jobs)
        return 0
    failures = do_work(study, runs, args.jobs)
    report(study, runs)
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def print_plan(study: StudySpec, runs: Sequence[Run], num_jobs: int) -> None:
    """Print what the study runs, and its time if a run of it has been timed."""
    from dskd_ds.runtime.arguments import override_argv
    from dskd_ds.study.prepare import missing_files
    from dskd_ds.study.results import read_result
    from dskd_ds.study.runs import first_of_each_dictionary
    from dskd_ds.study.spec import filled

    for stage in study.prepare:
        state = "to do" if missing_files(study, stage) else "done"
        argv = [filled(argument, study) for argument in stage.command]
        print(f"{state:<6}{stage.name}: dskd {' '.join(argv)}")
    results = {run.name: read_result(study, run) for run in runs}
    for run in runs:
        state = "done" if results[run.name] else "to do"
        print(f"{state:<6}{run.name}")
        print(f"      {' '.join(override_argv(run.overrides))}")
    pending = [run for run in runs if results[run.name] is None]
    print(f"{len(runs)} runs, {len(pending)} to do, {num_jobs} at a time")
    dictionaries = first_of_each_dictionary(runs)
    print(f"dictionaries: {len(dictionaries)}")
    cuts = {run.cut_key for run in runs if run.cut_key}
    print(f"cuts of the student: {len(cuts)}")
    print(signal_line(runs))
    seconds = [sum(result.seconds.values()) for result in results.values() if result]
    if seconds:
        hours = statistics.median(seconds) * len(pending) / num_jobs / 3600
        print(f"time: about {hours:.1f} h, by the median of {len(seconds)} finished runs")
    else:
        print("time: unknown until one run has finished (stop after it, and ask again)")


def signal_line(runs: Sequence[Run]) -> str:
    """Say whether the runs share what the teacher replied."""
    folders = {run.spec.teacher.cache_folder for run in runs if run.spec.teacher.source != "live"}
    num_live = sum(run.spec.teacher.source == "live" for run in runs)
    if not folders:
        return (
            "teacher signal: every run asks the teacher (share it with"
            ' "teacher.source" = "cache_or_live" in [settings])'
        )
    asking = f"; {num_live} runs ask the teacher for everything" if num_live else ""
    return f"teacher signal: shared in {', '.join(sorted(folders))}{asking}"


def report(study: StudySpec, runs: Sequence[Run]) -> None:
    """Write and print the table of the finished runs, and write the page and the picture."""
    from dskd_ds.commands.compare_page import write_page
    from dskd_ds.commands.compare_text import as_json
    from dskd_ds.study.outcome import only, outcome_of
    from dskd_ds.study.table import draw_grid, markdown

    folder = Path(study.folder)
    outcome = outcome_of(study, runs)
    text = markdown(study, outcome, planned=len(runs))
    content = {
        "metric": outcome.metric.key,
        "best": outcome.best,
        "arms": [asdict(arm) for arm in outcome.arms],
        "comparisons": [as_json(result) for result in outcome.comparisons],
        "controls": [as_json(result) for result in outcome.controls],
    }
    (folder / "study.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    (folder / "study.md").write_text(text, encoding="utf-8")
    print(f"\n{text}")
    if outcome.comparisons:
        results = [*outcome.comparisons, *outcome.controls]
        page = write_page(folder, outcome.groups, results, only(study, "test"))
        print(f"the page: {page}")
    picture = draw_grid(study, outcome, folder)
    if picture:
        print(f"the grid: {picture}")

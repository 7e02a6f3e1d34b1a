"""Measures what the sense term of an arm costs, once the runs of a study have finished."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dskd_ds.errors import InputError
from dskd_ds.files.atomic import write_json
from dskd_ds.runtime.arguments import override_argv
from dskd_ds.study.results import read_result
from dskd_ds.study.runs import Run, baseline_run
from dskd_ds.study.spec import CostSpec, StudySpec, reference_arm
from dskd_ds.study.stages import StageError, Stages

COST_FILE = "cost.json"
MADE_WITH = "made_with"
"""Key of the file: the settings of [cost] that it was made with."""


def measure_cost(stages: Stages, runs: Sequence[Run]) -> None:
    """Run `dskd bench --only cost` for the arm of [cost], unless its result exists.

    It needs a finished run of the arm and of the reference; without them it does nothing.
    Raises StageError if the bench fails, and InputError as `read_cost` does.
    """
    study = stages.study
    path = stages.folder / COST_FILE
    if study.cost is None or read_cost(study) is not None:
        return
    arm = _first_finished(study, runs, study.cost.arm)
    reference = _first_finished(study, runs, reference_arm(study))
    if arm is None or reference is None:
        return
    run_dir = baseline_run(study).spec.run_dir
    # With a live teacher: a kept answer costs nothing, and the ratio would be of another job.
    overrides = [*arm.overrides, f"run_dir={run_dir}", "teacher.source=live"]
    argv = ["bench", "--only", "cost", "--spec", study.base, *override_argv(overrides)]
    argv += ["--rounds", str(study.cost.rounds), "--output", str(path)]
    for run in (reference, arm):
        argv += ["--student", f"{run.arm}={run.spec.run_dir}/student"]
    stages.call("cost", *argv)
    if not path.is_file():
        raise StageError(f"cost: dskd bench wrote no {path}")
    write_json(
        path,
        json.loads(path.read_text(encoding="utf-8")) | {MADE_WITH: _settings(study.cost)},
        indent=1,
    )


def _settings(cost: CostSpec) -> dict[str, Any]:
    """Return the settings that the figures depend on."""
    return cost.model_dump(mode="json")


def _first_finished(study: StudySpec, runs: Sequence[Run], arm: str) -> Run | None:
    """Return the first finished run of an arm, or None."""
    for run in runs:
        if run.arm == arm and read_result(study, run) is not None:
            return run
    return None


def read_cost(study: StudySpec) -> dict[str, Any] | None:
    """Return what the bench measured, or None if it has not run.

    Raises InputError if its file is damaged, or was made with other settings of [cost]. A file of
    an earlier version does not say with which.
    """
    path = Path(study.folder) / COST_FILE
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: this is not JSON ({error}).\n  delete it.") from None
    made_with = content.get(MADE_WITH)
    if study.cost is not None and made_with not in (None, _settings(study.cost)):
        raise InputError(
            f"{path}: this was measured with [cost] {made_with}, but the study has"
            f" {_settings(study.cost)} now.\n  delete it to measure again, or restore [cost]."
        )
    return content

"""Refuses to resume a run with settings that decide its results."""

from __future__ import annotations

import sys
from pathlib import Path

from dskd_ds.errors import InputError
from dskd_ds.spec import SPEC_FILE, RunSpec, load_spec
from dskd_ds.spec.resume import changes_on_resume
from dskd_ds.student.checkpoint.folders import complete_tags


def refuse_another_run(spec: RunSpec) -> None:
    """Raise InputError if the run directory has checkpoints of a run with other settings.

    Prints a warning to stderr if a setting changed that may, but that changes results by rounding.
    """
    path = Path(spec.run_dir) / SPEC_FILE
    if not path.is_file() or not complete_tags(spec):
        return
    before = load_spec(path)
    changes = changes_on_resume(before, spec)
    refused = [change.key for change in changes if not change.mark.may_change]
    if refused:
        raise InputError(
            f"{path}: this run was started with other values of {', '.join(refused)}.\n"
            "  set another run_dir, or delete this one to start again."
        )
    if before.peak_lr != spec.peak_lr:  # the optimiser's settings are equal
        raise InputError(
            f"{path}: topology.num_students was {before.topology.num_students} and is now"
            f" {spec.topology.num_students}, but [optimizer] scale_lr_by_ranks multiplies the"
            " learning rate by it.\n"
            f"  resume with {before.topology.num_students} students."
        )
    for change in changes:
        if change.mark.effect:
            print(
                f"{path}: {change.key} was {change.before} and is now {change.now}:"
                f" {change.mark.effect}.",
                file=sys.stderr,
            )

"""Runs the commands of a study that make what all of its runs need, e.g. their training data."""

from __future__ import annotations

import json
from pathlib import Path

from dskd_ds.errors import InputError
from dskd_ds.files.atomic import write_json
from dskd_ds.study.spec import PrepareSpec, StudySpec, filled
from dskd_ds.study.stages import Stages

FOLDER = "prepared"


def prepare(stages: Stages) -> None:
    """Run the commands of [[prepare]] whose files do not exist.

    Raises InputError if a file was made by another command than the study has now, or if a command
    does not make its files, and StageError if one fails.
    """
    study = stages.study
    for stage in study.prepare:
        argv = [filled(argument, study) for argument in stage.command]
        _check_command(study, stage, argv)
        if missing_files(study, stage):
            stages.call(f"prepare-{stage.name}", *argv)
        missing = missing_files(study, stage)
        if missing:
            raise InputError(
                f"[[prepare]] {stage.name}: dskd {' '.join(argv)} did not make {missing[0]}.\n"
                "  name what it makes in `makes`."
            )


def missing_files(study: StudySpec, stage: PrepareSpec) -> list[str]:
    """Return the files of a stage that do not exist yet."""
    names = [filled(name, study) for name in stage.makes]
    return [name for name in names if not Path(name).exists()]


def _check_command(study: StudySpec, stage: PrepareSpec, argv: list[str]) -> None:
    """Record the command of a stage. Raises InputError if another one was recorded before."""
    record = Path(study.folder) / FOLDER / f"{stage.name}.json"
    if not record.is_file():
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json(record, {"command": argv}, indent=1)
        return
    before = json.loads(record.read_text(encoding="utf-8"))["command"]
    if before != argv:
        raise InputError(
            f"{record}: this stage was run with other arguments than the study has now"
            f" (before: dskd {' '.join(before)}).\n"
            "  name another folder in the study, or delete this file and what the stage made:"
            f" {', '.join(filled(name, study) for name in stage.makes)}."
        )

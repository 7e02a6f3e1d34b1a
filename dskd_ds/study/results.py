"""The result of each run as JSON, which is what makes a study resumable."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dskd_ds.errors import InputError
from dskd_ds.files.atomic import write_text
from dskd_ds.spec import RunSpec
from dskd_ds.spec.explain import explain
from dskd_ds.spec.resume import changes_on_resume
from dskd_ds.study.runs import Run
from dskd_ds.study.spec import StudySpec

FOLDER = "results"
NUMBERS = re.compile(r"\[[-+.,\s\deE]+\]")
"""A list of numbers in JSON."""


@dataclass(frozen=True)
class Result:
    """What a finished run measured."""

    arm: str
    seed: int
    settings: dict[str, Any]
    """The spec that was run, with every default filled in (`Run.settings`)."""
    overrides: tuple[str, ...]
    seconds: dict[str, float]
    """Stage -> time it took, in seconds; of the last call, if a stage was resumed."""
    scores: dict[str, Any]
    """What `dskd eval` measured of the trained student; of baselines, by the model's name."""
    last_record: dict[str, float]
    """The last line of metrics.jsonl."""
    tasks: dict[str, Any] = field(default_factory=dict)
    """Task -> metric -> mean and standard error; of baselines, by the model's name."""
    kept: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Model -> task -> means of the clusters, from which every interval can be computed again."""
    asked: dict[str, Any] | None = None
    """What `asked_of` returned of the study. Results of earlier versions have None."""
    chances: dict[str, float | None] = field(default_factory=dict)
    """Of baselines: task -> accuracy of a guess; None for a task without choices."""


def asked_of(study: StudySpec) -> dict[str, Any]:
    """Return the settings of [tasks] that decide which scores a run has; empty without tasks.

    The questions themselves are no part of it: their digest is in the scores (evaluation/items.py).
    """
    if study.tasks is None:
        return {}
    return study.tasks.model_dump(mode="json", exclude={"data_dir", "batch_size"})


def result_path(folder: Path, run: Run) -> Path:
    """Return where a run's result is."""
    return folder / FOLDER / f"{run.name}.json"


def write_result(folder: Path, result: Result, run: Run) -> None:
    """Write a result, each list of numbers on one line; it appears whole or not at all."""
    path = result_path(folder, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(result), indent=1)
    write_text(path, NUMBERS.sub(lambda found: " ".join(found.group().split()), text))


def read_result(study: StudySpec, run: Run) -> Result | None:
    """Return a run's result, or None if it has not finished.

    Raises InputError if the study has changed since, because results of two studies do not mix.
    """
    path = result_path(Path(study.folder), run)
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    if "settings" not in content:
        raise InputError(
            f"{path}: this result is from an earlier version, which did not keep the run's"
            f" settings.\n  {_way_out(path, run)}"
        )
    result = Result(**(content | {"overrides": tuple(content["overrides"])}))
    other = _other_settings(result.settings, run)
    if other:
        raise InputError(
            f"{path}: this run was made with other settings than the study has now"
            f" ({', '.join(other)}).\n  {_way_out(path, run)}"
        )
    asked = asked_of(study)
    if result.asked is not None and result.asked != asked:
        changed = [key for key in asked | result.asked if result.asked.get(key) != asked.get(key)]
        raise InputError(
            f"{path}: this run was measured with other [tasks] than the study has now"
            f" ({', '.join(changed)}).\n"
            f"  restore [tasks], or delete {path} to measure the run again: it is not trained"
            " again while its run directory exists."
        )
    return result


def _other_settings(before: dict[str, Any], run: Run) -> list[str]:
    """Return what differs between a spec that was run and the run's spec now.

    A key that this version has added counts as its default.
    """
    try:
        old = RunSpec.model_validate(before)
    except ValidationError as error:
        return [message.splitlines()[0] for message in explain(error)]  # the rest is about a file
    return [
        f"{change.key}: {change.before} -> {change.now}"
        for change in changes_on_resume(old, run.spec)
    ]


def _way_out(path: Path, run: Run) -> str:
    return (
        f"name another folder in the study, or delete {path} and {run.spec.run_dir} to run it"
        " again."
    )

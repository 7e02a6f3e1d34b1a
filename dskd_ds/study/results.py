"""The result of each run as JSON, which is what makes a study resumable."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dskd_ds.errors import InputError
from dskd_ds.files.atomic import write_json
from dskd_ds.study.runs import Run

FOLDER = "results"


@dataclass(frozen=True)
class Result:
    """What a finished run measured."""

    arm: str
    seed: int
    digest: str
    """`Run.digest` of the spec that was run."""
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


def result_path(folder: Path, run: Run) -> Path:
    """Return where a run's result is."""
    return folder / FOLDER / f"{run.name}.json"


def write_result(folder: Path, result: Result, run: Run) -> None:
    """Write a result; the file appears whole or not at all."""
    path = result_path(folder, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(result), indent=1)


def read_result(folder: Path, run: Run) -> Result | None:
    """Return a run's result, or None if it has not finished.

    Raises InputError if the study has changed since, because results of two studies do not mix.
    """
    path = result_path(folder, run)
    if not path.is_file():
        return None
    content = json.loads(path.read_text())
    result = Result(**(content | {"overrides": tuple(content["overrides"])}))
    if result.digest != run.digest:
        raise InputError(
            f"{path}: this run was made with other settings than the study has now.\n"
            f"  name another folder in the study, or delete {path} and {run.spec.run_dir} to run"
            " it again."
        )
    return result

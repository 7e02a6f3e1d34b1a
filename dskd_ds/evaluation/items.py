"""Scores per item of one model on one task, as a Parquet file.

`dskd eval` writes RUN_DIR/evaluation/TASK/MODEL.parquet, and `dskd compare` pairs the items of two
models. An item of the task `heldout` is a token position; items of one document are not
independent, so they share a cluster.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dskd_ds.errors import InputError
from dskd_ds.evaluation.metrics import METRICS, Metric
from dskd_ds.files.atomic import atomic_file

FOLDER = "evaluation"
FORMAT = 1
"""Version of the file's columns and metadata."""
METADATA_KEY = b"dskd"

TEACHER_ENTROPY = "teacher_entropy"
"""Column of held-out scores: entropy of the teacher's distribution at the item, in nats."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ItemScores:
    """What one model scored on each item of a task."""

    task: str
    model: str
    """The name that `dskd eval` gave the model: teacher, before, after, or a user's own."""
    digest: str
    """Digest of the items. Two files with the same digest measured the same items. Their order is
    the same too once `by_cluster` has sorted them."""
    clusters: Ints
    """[N] number of the group that an item belongs to; items of a group are not independent."""
    values: dict[str, Floats]
    """Key of a metric, or TEACHER_ENTROPY -> [N]."""

    @property
    def metrics(self) -> list[Metric]:
        """The metrics that were measured, in the order of tables."""
        return [metric for metric in METRICS if metric.key in self.values]


def items_path(run_dir: str | Path, task: str, model: str) -> Path:
    """Return where the scores of a model are."""
    return Path(run_dir) / FOLDER / task / f"{model}.parquet"


def digest_of(*arrays: npt.NDArray[np.generic]) -> str:
    """Return a digest of what identifies the items, e.g. their tokens and targets."""
    state = hashlib.blake2b(digest_size=16)
    for array in arrays:
        state.update(f"{array.dtype} {array.shape}".encode())
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()


def write_items(scores: ItemScores, path: Path) -> None:
    """Write the scores; the file appears whole or not at all."""
    import pyarrow
    from pyarrow import parquet

    columns = {"cluster": scores.clusters, **scores.values}
    facts = {
        "format": FORMAT,
        "task": scores.task,
        "model": scores.model,
        "digest": scores.digest,
    }
    table = pyarrow.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(facts)})
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        parquet.write_table(table, partial, compression="zstd")


def read_items(path: Path) -> ItemScores:
    """Read the scores of a model. Raises InputError if the file is missing or not of this form."""
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        facts = json.loads((table.schema.metadata or {})[METADATA_KEY])
    except FileNotFoundError:
        raise InputError(
            f"{path}: these scores do not exist.\n  measure them first: dskd eval SPEC.toml"
        ) from None
    except (OSError, pyarrow.ArrowException, KeyError, ValueError) as error:
        raise InputError(
            f"{path}: this is not a file of scores that `dskd eval` wrote ({error}).\n"
            "  measure again: dskd eval SPEC.toml"
        ) from None
    if facts.get("format") != FORMAT:
        raise InputError(
            f"{path}: its format is {facts.get('format')}, but this version reads {FORMAT}.\n"
            "  measure again: dskd eval SPEC.toml"
        )
    known = {TEACHER_ENTROPY, *(metric.key for metric in METRICS)}
    return ItemScores(
        task=facts["task"],
        model=facts["model"],
        digest=facts["digest"],
        clusters=table["cluster"].to_numpy().astype(np.int64),
        values={
            name: table[name].to_numpy().astype(np.float64)
            for name in table.column_names
            if name in known
        },
    )


def by_cluster(scores: ItemScores) -> ItemScores:
    """Return the items sorted by cluster; those of one cluster keep their order.

    Scores that a study restored from a result are sorted so, whatever the order in the text was
    (study/kept_scores.py). Sort before items of several models are paired.
    """
    order = np.argsort(scores.clusters, kind="stable")
    values = {key: found[order] for key, found in scores.values.items()}
    return replace(scores, clusters=scores.clusters[order], values=values)


def tasks_of(run_dir: str | Path, model: str) -> list[str]:
    """Return the names of the tasks that a model was measured on in a run directory."""
    folders = (Path(run_dir) / FOLDER).glob("*")
    return sorted(path.name for path in folders if items_path(run_dir, path.name, model).is_file())

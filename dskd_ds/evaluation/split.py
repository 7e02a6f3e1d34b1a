"""Splits the items of a task into a part to choose on and a part to report.

A best arm that is chosen and reported on the same items looks better than it is.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np

from dskd_ds.errors import InputError
from dskd_ds.evaluation.items import ItemScores

Part = Literal["dev", "test"]


def part_of(scores: ItemScores, part: Part, dev_share: float) -> ItemScores:
    """Return the scores of one part. A cluster is in one part as a whole.

    The part depends on the items' digest and the cluster's number alone, so it is the same for
    every model that was measured on these items.
    Raises InputError if it has fewer than two clusters: nothing can be said of others then.
    """
    numbers = range(int(scores.clusters.max()) + 1)
    is_dev = np.array([_share(scores.digest, number) < dev_share for number in numbers])
    kept = is_dev[scores.clusters] == (part == "dev")
    found, clusters = np.unique(scores.clusters[kept], return_inverse=True)
    if len(found) < 2:
        raise InputError(
            f"dev_share = {dev_share}, but {len(found)} of the {len(numbers)} documents of task"
            f" {scores.task} are in the {part} part, which needs 2 or more.\n"
            "  set dev_share = 0 to report all documents and choose no arm (finished runs stay), or"
            " evaluate on more text."
        )
    return ItemScores(
        task=scores.task,
        model=scores.model,
        digest=f"{scores.digest} {part} {dev_share}",
        clusters=clusters.astype(np.int64),
        values={key: values[kept] for key, values in scores.values.items()},
    )


def _share(digest: str, cluster: int) -> float:
    """Return a number in [0, 1) that looks random."""
    hashed = hashlib.blake2b(f"{digest} {cluster}".encode(), digest_size=8).digest()
    return int.from_bytes(hashed, "big") / 2**64

"""Splits the items of a task into a part to choose on and a part to report.

A best arm that is chosen and reported on the same items looks better than it is.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np

from dskd_ds.evaluation.items import ItemScores

Part = Literal["dev", "test"]


def part_of(scores: ItemScores, part: Part, dev_share: float) -> ItemScores:
    """Return the scores of one part. A cluster is in one part as a whole.

    The part depends on the items' digest and the cluster's number alone, so it is the same for
    every model that was measured on these items.
    """
    numbers = range(int(scores.clusters.max()) + 1)
    is_dev = np.array([_share(scores.digest, number) < dev_share for number in numbers])
    kept = is_dev[scores.clusters] == (part == "dev")
    _, clusters = np.unique(scores.clusters[kept], return_inverse=True)
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

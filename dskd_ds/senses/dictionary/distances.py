"""Exact squared distances between states and dictionary rows, a chunk of rows at a time, so that what is converted stays in cache.

Measured on 512 rows of 576: gathering by `senses[rows]` takes 7 times as long as by `index_select`; `bmm` of [rows, D] by [D, 1] 12
times as long as of [1, D] by [D, rows]; products of pairs by torch's `mul` and `sum` twice as long as by numpy's `vecdot`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dskd_ds.senses.dictionary.dictionary import SenseDictionary

Ints = NDArray[np.int64]

CHUNK_ROWS = 1024
"""Rows that are converted to float32 at a time (2.4 MB at D = 576)."""
SCAN_ROWS = 16_384
"""Rows that are compared with all queries at a time where all of them are."""


def pair_distances(
    dictionary: SenseDictionary, queries: Tensor, places: Ints, rows: Ints
) -> NDArray[np.float32]:
    """[M] squared distance of each dictionary row in rows [M] from the query it is for, queries[places]; queries [P, D] float32."""
    states, which, wanted = queries.numpy(), torch.from_numpy(places), torch.from_numpy(rows)
    products = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), CHUNK_ROWS):
        here = slice(start, start + CHUNK_ROWS)
        np.vecdot(
            dictionary.senses.index_select(0, wanted[here]).float().numpy(),
            queries.index_select(0, which[here]).numpy(),
            out=products[here],
        )
    distances: NDArray[np.float32] = (
        dictionary.squared_norms.numpy()[rows] - 2 * products + np.vecdot(states, states)[places]
    )
    return np.maximum(distances, 0)


def rerank(
    dictionary: SenseDictionary, queries: Tensor, candidates: Ints, keep: int
) -> tuple[Ints, NDArray[np.float32]]:
    """The `keep` nearest of each query's candidates, by exact squared distance on full vectors.

    queries [P, D], candidates [P, C] rows. Returns rows and squared distances, both [P, min(keep, C)], nearest first.
    """
    rows, queries, size = torch.from_numpy(candidates), queries.float(), candidates.shape[1]
    distances = torch.empty(rows.shape)
    at_once = max(1, CHUNK_ROWS // max(1, size))
    for start in range(0, len(rows), at_once):
        here = slice(start, start + at_once)
        senses = (
            dictionary.senses.index_select(0, rows[here].flatten())
            .float()
            .view(-1, size, queries.shape[1])
        )
        distances[here] = torch.bmm(queries[here, None], senses.transpose(1, 2)).squeeze(1)
    norms = dictionary.squared_norms.index_select(0, rows.flatten()).view(rows.shape)
    distances.mul_(-2).add_(norms).add_(queries.square().sum(dim=1, keepdim=True)).clamp_min_(0)
    nearest = distances.topk(min(keep, size), dim=1, largest=False)
    return rows.gather(1, nearest.indices).numpy(), nearest.values.numpy()


def exact_nearest(
    dictionary: SenseDictionary, queries: Tensor, among: Ints, keep: int
) -> tuple[Ints, NDArray[np.float32]]:
    """The nearest to each of queries [Q, D] among some rows [R]: every distance is computed, piece by piece.

    Returns rows and squared distances, both [Q, min(keep, R)], nearest first.
    """
    queries = queries.float()
    best = torch.zeros(len(queries), 0)
    rows = torch.zeros((len(queries), 0), dtype=torch.int64)
    for part in torch.from_numpy(among).split(SCAN_ROWS):
        # Without |q|^2, which is the same for all rows.
        norms = dictionary.squared_norms.index_select(0, part)
        distances = torch.addmm(
            norms, queries, dictionary.senses.index_select(0, part).float().T, alpha=-2
        )
        best, columns = torch.cat([best, distances], dim=1).topk(
            min(keep, best.shape[1] + len(part)), dim=1, largest=False
        )
        rows = torch.cat([rows, part.expand(len(queries), -1)], dim=1).gather(1, columns)
    return rows.numpy(), best.add_(queries.square().sum(dim=1, keepdim=True)).clamp_min_(0).numpy()

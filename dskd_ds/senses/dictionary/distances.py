"""Exact squared distances between states and dictionary rows.

Rows are converted to float32 a chunk at a time, so that what is converted stays in the cache.

Measured on 512 rows of 576 dimensions: gathering by `senses[rows]` takes 7 times as long as by
`index_select`; `bmm` of [rows, D] by [D, 1] takes 12 times as long as of [1, D] by [D, rows];
products of pairs by torch's `mul` and `sum` take twice as long as by numpy's `vecdot`.
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
"""Rows that exact_nearest compares with all queries at a time."""


def pair_distances(
    dictionary: SenseDictionary, queries: Tensor, query_indices: Ints, rows: Ints
) -> NDArray[np.float32]:
    """Return the squared distance [M] of each pair of a query and a dictionary row.

    queries: [P, D] float32. query_indices, rows: [M]; pair i is queries[query_indices[i]] and the
    dictionary's row rows[i].
    """
    # |r - q|^2 = |r|^2 - 2 r.q + |q|^2: the dictionary stores |r|^2, so only r.q needs the rows.
    states = queries.numpy()
    query_index, row_index = torch.from_numpy(query_indices), torch.from_numpy(rows)
    products = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), CHUNK_ROWS):
        chunk = slice(start, start + CHUNK_ROWS)
        np.vecdot(
            dictionary.senses.index_select(0, row_index[chunk]).float().numpy(),
            queries.index_select(0, query_index[chunk]).numpy(),
            out=products[chunk],
        )
    row_norms = dictionary.squared_norms.numpy()[rows]
    query_norms = np.vecdot(states, states)[query_indices]
    distances: NDArray[np.float32] = row_norms - 2 * products + query_norms
    return np.maximum(distances, 0)  # rounding can give small negative numbers


def rerank(
    dictionary: SenseDictionary, queries: Tensor, candidates: Ints, keep: int
) -> tuple[Ints, NDArray[np.float32]]:
    """Return the `keep` nearest of each query's candidates, by exact distance on full vectors.

    queries: [P, D]. candidates: [P, C] dictionary rows.
    Returns rows and squared distances, both [P, min(keep, C)], nearest first.
    """
    rows, queries, size = torch.from_numpy(candidates), queries.float(), candidates.shape[1]
    distances = torch.empty(rows.shape)
    # Each query has `size` rows, and a chunk has about CHUNK_ROWS.
    queries_per_chunk = max(1, CHUNK_ROWS // max(1, size))
    for start in range(0, len(rows), queries_per_chunk):
        chunk = slice(start, start + queries_per_chunk)
        senses = dictionary.senses.index_select(0, rows[chunk].flatten()).float()
        senses = senses.view(-1, size, queries.shape[1])
        distances[chunk] = torch.bmm(queries[chunk, None], senses.transpose(1, 2)).squeeze(1)
    row_norms = dictionary.squared_norms.index_select(0, rows.flatten()).view(rows.shape)
    query_norms = queries.square().sum(dim=1, keepdim=True)
    distances.mul_(-2).add_(row_norms).add_(query_norms).clamp_min_(0)
    nearest = distances.topk(min(keep, size), dim=1, largest=False)
    return rows.gather(1, nearest.indices).numpy(), nearest.values.numpy()


def exact_nearest(
    dictionary: SenseDictionary, queries: Tensor, among: Ints, keep: int
) -> tuple[Ints, NDArray[np.float32]]:
    """Return the nearest of some dictionary rows to each query; all distances are computed.

    queries: [Q, D]. among: [R] dictionary rows, compared SCAN_ROWS at a time.
    Returns rows and squared distances, both [Q, min(keep, R)], nearest first.
    """
    queries = queries.float()
    best = torch.zeros(len(queries), 0)
    rows = torch.zeros((len(queries), 0), dtype=torch.int64)
    for chunk in torch.from_numpy(among).split(SCAN_ROWS):
        # Without |q|^2, which is the same for all rows.
        row_norms = dictionary.squared_norms.index_select(0, chunk)
        senses = dictionary.senses.index_select(0, chunk).float()
        distances = torch.addmm(row_norms, queries, senses.T, alpha=-2)
        num_best = min(keep, best.shape[1] + len(chunk))
        all_distances = torch.cat([best, distances], dim=1)
        best, columns = all_distances.topk(num_best, dim=1, largest=False)
        all_rows = torch.cat([rows, chunk.expand(len(queries), -1)], dim=1)
        rows = all_rows.gather(1, columns)
    query_norms = queries.square().sum(dim=1, keepdim=True)
    return rows.numpy(), best.add_(query_norms).clamp_min_(0).numpy()


def typical_spread(dictionary: SenseDictionary) -> float:
    """Return the squared distance per dimension of a typical state from its sense.

    It is the median over the states of senses that were made from several; 0 if there are none. A
    mean would be decided by a few clusters of states that have little in common.
    """
    rows = slice(0, dictionary.num_token_rows)
    counts = dictionary.sense_counts[rows]
    several = counts > 1
    if not several.any():
        return 0.0
    spreads = dictionary.sense_spread[rows].double().numpy()[several]
    order = np.argsort(spreads)
    reached = np.cumsum(counts[several][order])
    return float(spreads[order][np.searchsorted(reached, reached[-1] / 2)])

"""Exact squared distances between states and dictionary rows, a chunk of rows at a time, so that what is converted stays in cache."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dskd_ds.sense.dictionary import SenseDictionary

CHUNK_ROWS = 512
CHUNK_QUERIES = 8
"""Queries of a chunk: all of its rows are multiplied with all of them, which costs less than copying each row its query."""
SCAN_ROWS = 16_384
"""Rows that are compared with all queries at a time where every row is wanted."""


def ragged_distances(dictionary: SenseDictionary, queries: Tensor, counts: NDArray[np.int64], rows: Tensor) -> Tensor:
    """[M] squared distances of rows [M] from their queries: the first counts[0] belong to queries[0], and so on.

    queries [P, D] float32, counts [P] with sum M.
    """
    ends = np.cumsum(counts)
    places = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
    products = torch.empty(len(rows))
    first = 0
    while first < len(counts):
        begin = int(ends[first] - counts[first])
        fitting = int(np.searchsorted(ends, begin + CHUNK_ROWS, side="right"))
        last = max(first + 1, min(fitting, first + CHUNK_QUERIES))
        here = slice(begin, int(ends[last - 1]))
        senses = dictionary.senses[rows[here]].float()
        if last == first + 1:
            torch.mv(senses, queries[first], out=products[here])
        else:
            products[here] = (senses @ queries[first:last].T).gather(1, (places[here] - first)[:, None]).squeeze(1)
        first = last
    squares = queries.square().sum(dim=1)
    return (dictionary.squared_norms[rows] - 2 * products + squares[places]).clamp_min_(0)


def exact_nearest(dictionary: SenseDictionary, queries: Tensor, keep: int) -> NDArray[np.int64]:
    """[Q, keep] the nearest of all token rows to each of queries [Q, D], nearest first: every distance is computed."""
    queries = queries.float()
    best = torch.full((len(queries), 0), torch.inf)
    rows = torch.zeros((len(queries), 0), dtype=torch.int64)
    for part in torch.arange(dictionary.num_token_rows).split(SCAN_ROWS):
        here = slice(int(part[0]), int(part[-1]) + 1)
        # Without |q|^2, which is the same for all rows.
        distances = dictionary.squared_norms[here] - 2 * queries @ dictionary.senses[here].float().T
        best, columns = torch.cat([best, distances], dim=1).topk(min(keep, best.shape[1] + len(part)), dim=1, largest=False)
        rows = torch.cat([rows, part.expand(len(queries), -1)], dim=1).gather(1, columns)
    return rows.numpy()

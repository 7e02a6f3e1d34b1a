"""The nearest senses of a whole dictionary by exact distance, piece by piece, so that the mapped file never has to fit in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dskd_ds.sense.dictionary import SenseDictionary

ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Neighbour:
    """Another owner's sense."""

    row: int
    owner: int
    distance: float
    """Squared, per dimension, as the sense term measures it."""


def nearest_rows(dictionary: SenseDictionary, queries: Tensor, among: NDArray[np.int64],
                 keep: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The nearest of some rows. queries: [Q, D]; among: [R]. Returns rows and squared distances, both [Q, min(keep, R)], nearest first."""
    queries = queries.float()
    best = torch.full((len(queries), 0), 0.0)
    rows = torch.zeros((len(queries), 0), dtype=torch.int64)
    for part in torch.from_numpy(among).split(ROWS_AT_ONCE):
        products = queries @ dictionary.senses[part].float().T
        distances = dictionary.squared_norms[part] - 2 * products + queries.square().sum(dim=1, keepdim=True)
        best, rows = torch.cat([best, distances], dim=1), torch.cat([rows, part.expand(len(queries), -1)], dim=1)
        chosen = best.topk(min(keep, best.shape[1]), dim=1, largest=False, sorted=True)
        best, rows = chosen.values, rows.gather(1, chosen.indices)
    return rows.numpy(), best.clamp_min(0).numpy()


def neighbours(dictionary: SenseDictionary, rows: NDArray[np.int64], among: NDArray[np.int64], number: int) -> list[list[Neighbour]]:
    """For each row, the `number` nearest senses of other owners among some rows, of each owner its nearest; fewer if there are no more."""
    owners = dictionary.row_owners[rows]
    # An owner has few senses, so this many rows nearly always hold enough owners.
    found, distances = nearest_rows(dictionary, dictionary.senses[torch.from_numpy(rows)], among, 16 * (number + 1))
    result = []
    for own, line, gaps in zip(owners, found, distances, strict=True):
        others = dictionary.row_owners[line]
        first = np.sort(np.unique(others, return_index=True)[1])
        kept = [i for i in first if others[i] != own][:number]
        result.append([Neighbour(int(line[i]), int(others[i]), float(gaps[i]) / dictionary.hidden_size) for i in kept])
    return result

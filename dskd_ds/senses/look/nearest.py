"""The nearest senses of other owners: what a reader sees around a sense."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.dictionary.distances import exact_nearest


@dataclass(frozen=True)
class Neighbour:
    """Another owner's sense."""

    row: int
    owner: int
    distance: float
    """Squared, per dimension, as the sense term measures it."""


def neighbours(
    dictionary: SenseDictionary, rows: NDArray[np.int64], among: NDArray[np.int64], number: int
) -> list[list[Neighbour]]:
    """For each row, the `number` nearest senses of other owners among some rows, of each owner its nearest; fewer if there are no more."""
    owners = dictionary.row_owners[rows]
    # An owner has few senses, so this many rows nearly always hold enough owners.
    found, distances = exact_nearest(
        dictionary, dictionary.senses[torch.from_numpy(rows)], among, 16 * (number + 1)
    )
    result = []
    for own, line, gaps in zip(owners, found, distances, strict=True):
        others = dictionary.row_owners[line]
        first = np.sort(np.unique(others, return_index=True)[1])
        kept = [i for i in first if others[i] != own][:number]
        result.append(
            [
                Neighbour(int(line[i]), int(others[i]), float(gaps[i]) / dictionary.hidden_size)
                for i in kept
            ]
        )
    return result

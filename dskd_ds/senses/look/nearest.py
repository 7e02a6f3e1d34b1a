"""Find the senses of other owners that are nearest to a sense."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.dictionary.distances import exact_nearest

ROWS_PER_OWNER = 16
"""Rows that are searched for each neighbour. An owner has few senses, so this many rows nearly
always contain enough different owners."""


@dataclass(frozen=True)
class Neighbour:
    """A sense of another owner."""

    row: int
    owner: int
    distance: float
    """Squared distance per dimension, as the sense term measures it."""


def neighbours(
    dictionary: SenseDictionary,
    rows: NDArray[np.int64],
    among: NDArray[np.int64],
    max_neighbours: int,
) -> list[list[Neighbour]]:
    """Return for each row the nearest senses of other owners, nearest first.

    among: the rows to search. Each owner appears once per row, with its nearest sense. A row has
    fewer than max_neighbours if the search finds no more owners.
    """
    senses = dictionary.senses[torch.from_numpy(rows)]
    num_searched = ROWS_PER_OWNER * (max_neighbours + 1)
    found, distances = exact_nearest(dictionary, senses, among=among, keep=num_searched)
    result = []
    for row_owner, near_rows, squared in zip(
        dictionary.row_owners[rows], found, distances, strict=True
    ):
        owners = dictionary.row_owners[near_rows]
        # np.unique sorts by owner; sorting the indices restores the order by distance.
        first_of_each_owner = np.sort(np.unique(owners, return_index=True)[1])
        kept = [i for i in first_of_each_owner if owners[i] != row_owner][:max_neighbours]
        near: list[Neighbour] = []
        for i in kept:
            distance = float(squared[i]) / dictionary.hidden_size
            near.append(Neighbour(int(near_rows[i]), int(owners[i]), distance))
        result.append(near)
    return result

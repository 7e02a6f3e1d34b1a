"""Operations on sets of senses, one set per position, as flat arrays without a loop over positions.

`Ragged` holds rows of different lengths (here one row of owners per position); `Candidates` holds
pairs (position, dictionary row), sorted by position.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dskd_ds.lexicon.relations import Ragged
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.dictionary.distances import pair_distances
from dskd_ds.signals.parts.chosen import Candidates, Ints, Mask


def draw_related(
    table: Ragged, tokens: Ints, enabled: Mask, limit: int, generator: np.random.Generator
) -> Ragged:
    """Draw related owners for each of tokens [P], uniformly and without repeats.

    Returns at most `limit` entries of the token's row in `table` for each position, in the table's
    order; none where `enabled` [P] is false.
    """
    starts = table.offsets[tokens]
    counts = np.where(enabled, table.offsets[tokens + 1] - starts, 0)
    values = table.values[ranges(starts, counts)]
    if (counts > limit).any():
        # A random key below 1 is added to the position's index:
        # one sort then shuffles the entries of every row without mixing rows.
        positions = np.repeat(np.arange(len(tokens)), counts)
        order = np.argsort(positions + generator.random(len(values)))
        rank = ranges(np.zeros_like(counts), counts)
        drawn = np.zeros(len(values), bool)
        drawn[order[rank < limit]] = True
        values = values[drawn]
        counts = np.minimum(counts, limit)
    return ragged(counts, values)


def ragged(lengths: Ints, values: Ints) -> Ragged:
    """Return the Ragged whose rows have these lengths and, concatenated, these values."""
    return Ragged(np.concatenate([[0], np.cumsum(lengths)]), values)


def stack(tables: list[Ragged]) -> Ragged:
    """Return one Ragged with the rows of all tables, table after table."""
    return ragged(
        np.concatenate([table.lengths() for table in tables]),
        np.concatenate([table.values for table in tables]),
    )


def prepend(tokens: Ints, table: Ragged) -> Ragged:
    """Return `table` with each of tokens [P] inserted as the first entry of its row."""
    return Ragged(
        table.offsets + np.arange(len(tokens) + 1),
        np.insert(table.values, table.offsets[:-1], tokens),
    )


def senses_of(dictionary: SenseDictionary, owners: Ragged) -> Candidates:
    """Return all senses of each position's owners, owner by owner."""
    starts = dictionary.owner_offsets[owners.values]
    counts = dictionary.owner_offsets[owners.values + 1] - starts
    position_offsets = np.concatenate([[0], np.cumsum(counts)])[owners.offsets]
    num_positions = len(owners.offsets) - 1
    return Candidates(
        np.repeat(np.arange(num_positions), np.diff(position_offsets)), ranges(starts, counts)
    )


def nearest(
    dictionary: SenseDictionary, hidden: Tensor, candidates: Candidates, keep: int
) -> Candidates:
    """Return each position's `keep` candidates with the smallest exact distance, nearest first.

    hidden: [P, D] float32. Candidate positions may exceed P: position P + i is a second set of
    position i and is compared with the same state.
    """
    distances = pair_distances(
        dictionary,
        queries=hidden,
        query_indices=candidates.positions % len(hidden),
        rows=candidates.rows,
    ).astype(np.float64)
    # Distances are scaled to below 1 and added to the position's index:
    # one sort then orders the candidates of every position.
    keys = candidates.positions + distances / (2.0 * distances.max(initial=1.0))
    order = np.argsort(keys)
    counts = np.bincount(candidates.positions)
    rank = ranges(np.zeros_like(counts), counts)
    best = order[rank < keep]
    return Candidates(candidates.positions[best], candidates.rows[best])


def split_at(candidates: Candidates, num_positions: int) -> tuple[Candidates, Candidates]:
    """Split into the sets of positions below num_positions and those above, renumbered from 0."""
    middle = int(np.searchsorted(candidates.positions, num_positions))
    lower = Candidates(candidates.positions[:middle], candidates.rows[:middle])
    upper = Candidates(candidates.positions[middle:] - num_positions, candidates.rows[middle:])
    return lower, upper


def ranges(starts: Ints, counts: Ints) -> Ints:
    """Return the concatenation of arange(start, start + count) over all starts and counts."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())


def keep_where(candidates: Candidates, mask: Mask) -> Candidates:
    """Return the candidates of the positions where mask [P] is true."""
    kept = mask[candidates.positions]
    return Candidates(candidates.positions[kept], candidates.rows[kept])


def first_allowed(rows: Ints, allowed: Mask, limit: int) -> Candidates:
    """Return the first `limit` entries of each line of rows [P, R] that `allowed` [P, R] marks."""
    kept = allowed & (allowed.cumsum(axis=1) <= limit)
    return Candidates(np.nonzero(kept)[0], rows[kept])


def merge(left: Candidates, right: Candidates) -> Candidates:
    """Return the union of both sets of each position, sorted by position and row."""
    positions = np.concatenate([left.positions, right.positions])
    rows = np.concatenate([left.rows, right.rows])
    order = np.lexsort((rows, positions))
    positions, rows = positions[order], rows[order]
    is_new = np.ones(len(rows), bool)
    is_new[1:] = (positions[1:] != positions[:-1]) | (rows[1:] != rows[:-1])
    return Candidates(positions[is_new], rows[is_new])


def look_up(
    owners: Ints, ids: Ints, values: NDArray[np.float32]
) -> tuple[Mask, NDArray[np.float32]]:
    """Find owners [P, R] among the ids [P, k] of the same position.

    An id comes once per position. Returns whether each is there, and its value [P, k]; else 0.
    Memory: P * (R + k), which is why pairs are searched for and not compared.
    """
    size = np.int64(max(owners.max(initial=0), ids.max(initial=0)) + 1)
    first = np.arange(len(ids))[:, None] * size
    order = np.argsort(ids, axis=1)
    known = (np.take_along_axis(ids, order, axis=1) + first).ravel()
    wanted = owners + first
    if not len(known):
        return np.zeros(owners.shape, bool), np.zeros(owners.shape, np.float32)
    found = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    is_there: Mask = known[found] == wanted
    value = np.take_along_axis(values, order, axis=1).ravel()[found]
    return is_there, np.where(is_there, value, np.float32(0))

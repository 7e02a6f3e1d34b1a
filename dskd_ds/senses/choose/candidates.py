"""Sets of senses, one for each of P positions, as flat arrays: drawn, looked up, cut to the nearest, joined. No loop over positions."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from dskd_ds.lexicon.relations import Ragged
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.dictionary.distances import pair_distances
from dskd_ds.signals.parts.chosen import Candidates, Ints, Mask


def draw(
    table: Ragged, tokens: Ints, wanted: Mask, number: int, generator: np.random.Generator
) -> Ragged:
    """For each of tokens [P] at most `number` of its table's row, drawn evenly without repeats; none where `wanted` [P] is false."""
    starts = table.offsets[tokens]
    counts = np.where(wanted, table.offsets[tokens + 1] - starts, 0)
    kept = table.values[ranges(starts, counts)]
    if (counts > number).any():
        # Random keys below 1 on top of the position's number: one sort orders every row's entries at random.
        positions = np.repeat(np.arange(len(tokens)), counts)
        order = np.argsort(positions + generator.random(len(kept)))
        rank = ranges(np.zeros_like(counts), counts)
        chosen = np.zeros(len(kept), bool)
        chosen[order[rank < number]] = True
        kept, counts = kept[chosen], np.minimum(counts, number)
    return ragged(counts, kept)


def ragged(lengths: Ints, values: Ints) -> Ragged:
    """Rows of these lengths."""
    return Ragged(np.concatenate([[0], np.cumsum(lengths)]), values)


def stack(parts: list[Ragged]) -> Ragged:
    """The rows of all parts, one after the other."""
    return ragged(
        np.concatenate([p.lengths() for p in parts]), np.concatenate([p.values for p in parts])
    )


def with_own(tokens: Ints, others: Ragged) -> Ragged:
    """Each of tokens [P] ahead of its row of others."""
    return Ragged(
        others.offsets + np.arange(len(tokens) + 1),
        np.insert(others.values, others.offsets[:-1], tokens),
    )


def rows_of(dictionary: SenseDictionary, owners: Ragged) -> Candidates:
    """All senses of each position's owners, owner by owner."""
    starts = dictionary.owner_offsets[owners.values]
    counts = dictionary.owner_offsets[owners.values + 1] - starts
    before = np.concatenate([[0], np.cumsum(counts)])[owners.offsets]
    return Candidates(
        np.repeat(np.arange(len(owners.offsets) - 1), np.diff(before)), ranges(starts, counts)
    )


def nearest(
    dictionary: SenseDictionary, hidden: Tensor, candidates: Candidates, keep: int
) -> Candidates:
    """The `keep` candidates of each position nearest to its state in hidden [P, D] float32, exactly; nearest first.

    Positions go round: P is the second set of position 0, and so on.
    """
    distances = pair_distances(
        dictionary, hidden, candidates.positions % len(hidden), candidates.rows
    ).astype(np.float64)
    # Distances scaled to below 1 on top of the position's number: one sort orders every position's candidates.
    order = np.argsort(candidates.positions + distances / (2.0 * distances.max(initial=1.0)))
    counts = np.bincount(candidates.positions)
    best = order[ranges(np.zeros_like(counts), counts) < keep]
    return Candidates(candidates.positions[best], candidates.rows[best])


def split(candidates: Candidates, num_positions: int) -> tuple[Candidates, Candidates]:
    """The sets of positions below num_positions, and those from there on as positions from 0."""
    middle = int(np.searchsorted(candidates.positions, num_positions))
    return (
        Candidates(candidates.positions[:middle], candidates.rows[:middle]),
        Candidates(candidates.positions[middle:] - num_positions, candidates.rows[middle:]),
    )


def ranges(starts: Ints, counts: Ints) -> Ints:
    """Concatenation of arange(start, start + count)."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())


def keep_where(candidates: Candidates, mask: Mask) -> Candidates:
    """Those of positions that the mask [P] admits."""
    kept = mask[candidates.positions]
    return Candidates(candidates.positions[kept], candidates.rows[kept])


def first(rows: Ints, mask: Mask, number: int) -> Candidates:
    """The first `number` of each line of rows [P, R] that the mask [P, R] admits."""
    mask = mask & (mask.cumsum(axis=1) <= number)
    return Candidates(np.nonzero(mask)[0], rows[mask])


def merge(left: Candidates, right: Candidates) -> Candidates:
    """Both, by position, each row once."""
    positions = np.concatenate([left.positions, right.positions])
    rows = np.concatenate([left.rows, right.rows])
    order = np.lexsort((rows, positions))
    positions, rows = positions[order], rows[order]
    fresh = np.ones(len(rows), bool)
    fresh[1:] = (positions[1:] != positions[:-1]) | (rows[1:] != rows[:-1])
    return Candidates(positions[fresh], rows[fresh])

"""What was chosen at the sense positions of a batch, as dictionary rows; and the same as arrays of a reply (link/messages.py).

Whoever has the teacher's states chooses; whoever has the dictionary can tell what was chosen from row numbers alone. So where the
teacher chooses, a sense position costs some tens of bytes on the wire, and not the thousands of its state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dskd_ds.link.messages import Array, SensesWanted
from dskd_ds.link.packing import pack, unpack

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

SETS = ("pull", "push")


@dataclass(frozen=True)
class Candidates:
    """Senses of each position, as pairs (position number, dictionary row), sorted by position."""

    positions: Ints
    """[M] which of the P positions."""
    rows: Ints
    """[M]"""

    def present(self, num_positions: int) -> Mask:
        """[P] whether a position has any."""
        return np.bincount(self.positions, minlength=num_positions) > 0


@dataclass(frozen=True)
class Chosen:
    """S+ and S- at P positions, and what else is known only where the teacher's states are."""

    weights: NDArray[np.float32]
    """[P] weight of each position's term."""
    pull: Candidates
    """S+"""
    push: Candidates
    """S-"""
    with_neighbours: Mask
    """[P] whether the index gave senses to S+ or S-."""

    def __len__(self) -> int:
        return len(self.weights)

    @staticmethod
    def nothing() -> Chosen:
        """At no positions."""
        none = Candidates(np.zeros(0, np.int64), np.zeros(0, np.int64))
        return Chosen(np.zeros(0, np.float32), none, none, np.zeros(0, bool))


UNWANTED = SensesWanted(key="", num_rows=1, most=1)
"""The form of the arrays of a reply to a request that wants no senses: all have 0 rows."""


def chosen_arrays(chosen: Chosen, wanted: SensesWanted) -> dict[str, Array]:
    """The reply's arrays. Raises ValueError if a set is larger than `wanted` allows."""
    arrays: dict[str, Array] = {
        "sense_weights": chosen.weights,
        "sense_neighbours": chosen.with_neighbours.astype(np.uint8),
    }
    for name in SETS:
        candidates: Candidates = getattr(chosen, name)
        lengths = np.bincount(candidates.positions, minlength=len(chosen))
        if lengths.max(initial=0) > wanted.most:
            raise ValueError(
                f"{name} has {lengths.max()} senses at a position, the request allows {wanted.most}"
            )
        arrays[f"{name}_lengths"] = pack(lengths, wanted.most + 1)
        arrays[f"{name}_rows"] = pack(candidates.rows, wanted.num_rows)
    return arrays


def read_chosen(arrays: dict[str, Array], wanted: SensesWanted, num_positions: int) -> Chosen:
    """A reply's arrays -> what was chosen. Raises ValueError if shapes or values do not fit the request."""
    for name in ("sense_weights", "sense_neighbours"):
        if arrays[name].shape != (num_positions,):
            raise ValueError(f"{name} has shape {arrays[name].shape}, expected {(num_positions,)}")
    weights = np.asarray(arrays["sense_weights"], np.float32)
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError("sense_weights has values that are no weights")
    if arrays["sense_neighbours"].max(initial=0) > 1:
        raise ValueError("sense_neighbours has values beside 0 and 1")
    pull, push = (_read_set(arrays, name, wanted, num_positions) for name in SETS)
    return Chosen(weights.copy(), pull, push, arrays["sense_neighbours"].astype(bool))


def _read_set(
    arrays: dict[str, Array], name: str, wanted: SensesWanted, num_positions: int
) -> Candidates:
    try:
        lengths: Ints = unpack(arrays[f"{name}_lengths"], wanted.most + 1)
        rows: Ints = unpack(arrays[f"{name}_rows"], wanted.num_rows)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if len(lengths) != num_positions or int(lengths.sum()) != len(rows):
        raise ValueError(
            f"{name} has {len(rows)} rows, {len(lengths)} lengths that sum to {lengths.sum()}, and {num_positions} positions"
        )
    return Candidates(np.repeat(np.arange(num_positions), lengths), rows)

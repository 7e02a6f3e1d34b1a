"""The chosen-senses part: S+ and S- at the sense positions, as rows of the dictionary.

Choosing needs the teacher's states; looking up what was chosen needs only the dictionary and row
numbers. So where the teacher chooses, a sense position costs some tens of bytes on the wire, and
not the thousands of a hidden state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dskd_ds.link.messages import Array, SensesWanted
from dskd_ds.link.packing import pack, unpack
from dskd_ds.signals.parts.checks import check_shape

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

SETS = ("pull", "push")


@dataclass(frozen=True)
class Candidates:
    """Senses at P positions, as pairs (position number, dictionary row), sorted by position."""

    positions: Ints
    """[M] which of the P positions."""
    rows: Ints
    """[M]"""

    def present(self, num_positions: int) -> Mask:
        """Return [P]: whether a position has any sense."""
        return np.bincount(self.positions, minlength=num_positions) > 0


@dataclass(frozen=True)
class Chosen:
    """S+ and S- at P positions, and what is known only where the teacher's states are."""

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
        """Return what was chosen at no positions."""
        none = Candidates(np.zeros(0, np.int64), np.zeros(0, np.int64))
        return Chosen(np.zeros(0, np.float32), none, none, np.zeros(0, bool))


UNWANTED = SensesWanted(key="", num_rows=1, most=1)
"""The form of the arrays in a reply to a request that wants no senses: all have 0 rows."""


def chosen_arrays(chosen: Chosen, wanted: SensesWanted) -> dict[str, Array]:
    """Return the reply's arrays. Raises ValueError if a set is larger than `wanted` allows."""
    arrays: dict[str, Array] = {
        "sense_weights": chosen.weights,
        "sense_neighbours": chosen.with_neighbours.astype(np.uint8),
    }
    for name in SETS:
        candidates: Candidates = getattr(chosen, name)
        lengths = np.bincount(candidates.positions, minlength=len(chosen))
        # A longer set does not fit the width of the lengths, which the student knows from `wanted`.
        if lengths.max(initial=0) > wanted.most:
            raise ValueError(
                f"{name} has {lengths.max()} senses at a position, the request allows {wanted.most}"
            )
        arrays[f"{name}_lengths"] = pack(lengths, wanted.most + 1)
        arrays[f"{name}_rows"] = pack(candidates.rows, wanted.num_rows)
    return arrays


def read_chosen(arrays: dict[str, Array], wanted: SensesWanted, num_positions: int) -> Chosen:
    """Return what the arrays of a reply say was chosen.

    Raises ValueError if shapes or values do not fit the request.
    """
    check_shape("sense_weights", arrays["sense_weights"], (num_positions,))
    check_shape("sense_neighbours", arrays["sense_neighbours"], (num_positions,))
    weights = np.asarray(arrays["sense_weights"], np.float32)
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError("sense_weights has values that are negative or not finite")
    if arrays["sense_neighbours"].max(initial=0) > 1:
        raise ValueError("sense_neighbours has values other than 0 and 1")
    pull, push = (_read_set(arrays, name, wanted, num_positions) for name in SETS)
    return Chosen(weights.copy(), pull, push, arrays["sense_neighbours"].astype(bool))


def _read_set(
    arrays: dict[str, Array], name: str, wanted: SensesWanted, num_positions: int
) -> Candidates:
    """Return S+ ("pull") or S- ("push") of a reply. Raises ValueError if it does not fit."""
    try:
        lengths: Ints = unpack(arrays[f"{name}_lengths"], wanted.most + 1)
        rows: Ints = unpack(arrays[f"{name}_rows"], wanted.num_rows)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if len(lengths) != num_positions or int(lengths.sum()) != len(rows):
        raise ValueError(
            f"{name} has {len(rows)} rows, {len(lengths)} lengths that sum to {lengths.sum()},"
            f" and {num_positions} positions"
        )
    return Candidates(np.repeat(np.arange(num_positions), lengths), rows)

"""The candidates part: senses near the teacher's state after a layer, where a target is.

A loss below the head that compares with senses needs to know which senses they are and how far the
teacher's state is from each, but not the state. So a position costs some tens of bytes on the wire,
and not the thousands of a state. The arrays go set by set, and within a set position by position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dskd_ds.link.messages import Array, CandidatesWanted
from dskd_ds.link.packing import pack, unpack
from dskd_ds.signals.parts.checks import check_shape
from dskd_ds.signals.parts.chosen import Ints


@dataclass(frozen=True)
class MeasuredSenses:
    """Senses at N positions, each with its distance from the teacher's state."""

    lengths: Ints
    """[N] number of senses at each position."""
    rows: Ints
    """[sum of lengths] dictionary rows, position by position, ascending within a position."""
    squared_distances: NDArray[np.float32]
    """[sum of lengths]"""

    @property
    def positions(self) -> Ints:
        """[sum of lengths] which of the N positions each sense is at."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


NOTHING = MeasuredSenses(
    lengths=np.zeros(0, np.int64),
    rows=np.zeros(0, np.int64),
    squared_distances=np.zeros(0, np.float32),
)
"""Senses at no positions."""
NO_CANDIDATES = CandidatesWanted(layer=1, key="", num_rows=1, most=1)
"""The form of the arrays in a reply to a request that wants no candidates: all have 0 rows."""


def measured_arrays(
    found: Sequence[MeasuredSenses], wanted: Sequence[CandidatesWanted]
) -> dict[str, Array]:
    """Return the reply's arrays. found: one per set of `wanted`.

    Raises ValueError if a position has more candidates than its set allows.
    """
    limits = widest(wanted)
    for senses, form in zip(found, wanted, strict=True):
        _check_lengths(senses.lengths, form)
    sets = [NOTHING, *found]
    lengths = np.concatenate([senses.lengths for senses in sets])
    rows = np.concatenate([senses.rows for senses in sets])
    return {
        "candidate_lengths": pack(lengths, limits.most + 1),
        "candidate_rows": pack(rows, limits.num_rows),
        "candidate_distances": np.concatenate([senses.squared_distances for senses in sets]),
    }


def read_measured(
    arrays: dict[str, Array], wanted: Sequence[CandidatesWanted], num_positions: int
) -> tuple[MeasuredSenses, ...]:
    """Return the candidates of a reply, one per set of `wanted`.

    Raises ValueError if shapes or values do not fit the request.
    """
    limits = widest(wanted)
    try:
        all_lengths: Ints = unpack(arrays["candidate_lengths"], limits.most + 1)
        rows: Ints = unpack(arrays["candidate_rows"], limits.num_rows)
    except ValueError as error:
        raise ValueError(f"candidates: {error}") from None
    shape = (len(wanted), num_positions)
    check_shape("candidate_lengths", all_lengths, (len(wanted) * num_positions,))
    check_shape("candidate_rows", rows, (int(all_lengths.sum()),))
    check_shape("candidate_distances", arrays["candidate_distances"], rows.shape)
    distances = np.asarray(arrays["candidate_distances"], np.float32)
    if not (np.isfinite(distances) & (distances >= 0)).all():
        raise ValueError("candidate_distances has values that are negative or not finite")
    found: list[MeasuredSenses] = []
    start = 0
    for form, lengths in zip(wanted, all_lengths.reshape(shape), strict=True):
        end = start + int(lengths.sum())
        _check_lengths(lengths, form)
        _check_rows(rows[start:end], form)
        found.append(MeasuredSenses(lengths, rows[start:end], distances[start:end].copy()))
        start = end
    return tuple(found)


def widest(wanted: Sequence[CandidatesWanted]) -> CandidatesWanted:
    """Return the largest limits of all sets, which decide the bytes of the packed numbers."""
    forms = wanted or [NO_CANDIDATES]
    limits = {
        "num_rows": max(form.num_rows for form in forms),
        "most": max(form.most for form in forms),
    }
    return NO_CANDIDATES.model_copy(update=limits)


def _check_lengths(lengths: Ints, form: CandidatesWanted) -> None:
    """Raise ValueError if a position has more candidates than the request allows."""
    longest = int(lengths.max(initial=0))
    if longest > form.most:
        raise ValueError(
            f"layer {form.layer} has {longest} candidates at a position, the request allows"
            f" {form.most}"
        )


def _check_rows(rows: Ints, form: CandidatesWanted) -> None:
    """Raise ValueError if a candidate is not in the set's dictionary."""
    last = int(rows.max(initial=0))
    if last >= form.num_rows:
        raise ValueError(
            f"a candidate at layer {form.layer} is row {last} of a dictionary of {form.num_rows}"
        )

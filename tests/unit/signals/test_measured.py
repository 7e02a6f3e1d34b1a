"""Candidates of losses below the head survive the wire, and invalid ones are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dskd_ds.link.messages import CandidatesWanted
from dskd_ds.signals.parts.measured import (
    MeasuredSenses,
    measured_arrays,
    read_measured,
    widest,
)
from dskd_ds.signals.widths import candidates_bytes

SMALL = CandidatesWanted(layer=2, key="", num_rows=183, most=4)
"""Numbers of its rows take one byte, but two beside those of a larger set."""
LARGE = CandidatesWanted(layer=5, key="", num_rows=300, most=2)
POSITIONS = 7


def candidates(form: CandidatesWanted, seed: int = 0, positions: int = POSITIONS) -> MeasuredSenses:
    """Random candidates, as many as the form allows or less."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(0, form.most + 1, positions)
    rows = draw.integers(0, form.num_rows, int(lengths.sum()))
    return MeasuredSenses(lengths, rows, draw.random(len(rows)).astype(np.float32))


def both() -> tuple[dict[str, Any], Sequence[CandidatesWanted]]:
    """The arrays of two sets, and what was asked for."""
    forms = (SMALL, LARGE)
    return measured_arrays([candidates(form) for form in forms], forms), forms


@given(
    seed=st.integers(0, 999),
    positions=st.integers(0, 9),
    sizes=st.lists(
        st.tuples(st.sampled_from([1, 4, 300]), st.sampled_from([1, 300, 1 << 20])), max_size=3
    ),
)
def test_candidates_survive_the_wire(
    seed: int, positions: int, sizes: list[tuple[int, int]]
) -> None:
    forms = [
        CandidatesWanted(layer=layer, key="", num_rows=num_rows, most=most)
        for layer, (most, num_rows) in enumerate(sizes, start=1)
    ]
    sent = [candidates(form, seed + form.layer, positions) for form in forms]
    arrays = measured_arrays(sent, forms)
    limits = widest(forms)
    most_bytes = sum(
        candidates_bytes(form.most, limits.most, limits.num_rows) * positions for form in forms
    )
    assert sum(array.nbytes for array in arrays.values()) <= most_bytes
    received = read_measured(arrays, forms, positions)
    assert len(received) == len(sent)
    for before, after in zip(sent, received, strict=True):
        assert (before.lengths == after.lengths).all()
        assert (before.rows == after.rows).all()
        assert (before.squared_distances == after.squared_distances).all()
        assert (after.positions == np.repeat(np.arange(positions), before.lengths)).all()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("candidate_rows", lambda a: a | 255, "number 65535 is not below 300"),
        (
            "candidate_rows",
            lambda a: a * 0 + np.array([200, 0], np.uint8),
            "a candidate at layer 2 is row 200 of a dictionary of 183",
        ),
        ("candidate_rows", lambda a: a[:-1], "candidate_rows has shape"),
        ("candidate_rows", lambda a: a[:, :1], "numbers of 1 bytes, expected 2"),
        ("candidate_lengths", lambda a: a * 0 + 5, "number 5 is not below 5"),
        ("candidate_lengths", lambda a: np.roll(a, POSITIONS, 0), "the request allows 2"),
        ("candidate_lengths", lambda a: a[1:], "candidate_lengths has shape"),
        ("candidate_lengths", lambda a: np.maximum(a, 1), "candidate_rows has shape"),
        ("candidate_distances", lambda a: a[1:], "candidate_distances has shape"),
        ("candidate_distances", lambda a: a - 2, "negative or not finite"),
        ("candidate_distances", lambda a: a * np.float32(np.inf), "negative or not finite"),
        ("candidate_distances", lambda a: a * np.float32(np.nan), "negative or not finite"),
    ],
)
def test_invalid_candidates_are_refused(name: str, change: Any, message: str) -> None:
    arrays, forms = both()
    read_measured(arrays, forms, POSITIONS)
    with pytest.raises(ValueError, match=message):
        read_measured(arrays | {name: change(arrays[name])}, forms, POSITIONS)


def test_candidates_that_were_not_asked_for_are_refused() -> None:
    arrays, forms = both()
    with pytest.raises(ValueError, match="number 4 is not below 2"):
        read_measured(arrays, (), 0)
    with pytest.raises(ValueError, match="candidate_lengths has shape"):
        read_measured(arrays, forms, POSITIONS + 1)
    with pytest.raises(ValueError, match="candidate_lengths has shape"):
        read_measured(arrays, (*forms, LARGE), POSITIONS)


def test_more_candidates_than_the_request_allows_are_not_sent() -> None:
    fewer = SMALL.model_copy(update={"most": 3})
    with pytest.raises(ValueError, match=r"layer 2 has 4 candidates at a position, .* allows 3"):
        measured_arrays([candidates(SMALL)], [fewer])

"""Chosen senses survive the wire, and an invalid choice is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dskd_ds.link.messages import SensesWanted
from dskd_ds.signals.parts.chosen import Candidates, Chosen, chosen_arrays, read_chosen
from dskd_ds.signals.widths import chosen_bytes

NUM_ROWS = 183
"""Numbers below it take one byte."""
FORM = SensesWanted(key="", num_rows=NUM_ROWS, most=4)


def chosen(seed: int = 0, positions: int = 7, most: int = 4, num_rows: int = NUM_ROWS) -> Chosen:
    """A random choice of at most `most` of `num_rows` senses at each position."""
    draw = np.random.default_rng(seed)

    def some() -> Candidates:
        where = np.repeat(np.arange(positions), draw.integers(0, most + 1, positions))
        return Candidates(where, draw.integers(0, num_rows, len(where)))

    weights = draw.random(positions).astype(np.float32)
    return Chosen(weights, some(), some(), draw.random(positions) < 0.5)


@given(
    seed=st.integers(0, 999),
    positions=st.integers(0, 9),
    most=st.sampled_from([1, 4, 300]),
    num_rows=st.sampled_from([1, 300, 1 << 20]),
)
def test_what_was_chosen_survives_the_wire(
    seed: int, positions: int, most: int, num_rows: int
) -> None:
    sent = chosen(seed, positions, most, num_rows)
    form = SensesWanted(key="", num_rows=num_rows, most=most)
    arrays = chosen_arrays(sent, form)
    most_bytes = positions * chosen_bytes(2 * most, most, num_rows)
    assert sum(array.nbytes for array in arrays.values()) <= most_bytes
    received = read_chosen(arrays, form, positions)
    for before, after in ((sent.pull, received.pull), (sent.push, received.push)):
        assert (before.positions == after.positions).all()
        assert (before.rows == after.rows).all()
    assert (sent.weights == received.weights).all()
    assert (sent.with_neighbours == received.with_neighbours).all()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "pull_rows",
            lambda a: np.full_like(a, NUM_ROWS),
            f"pull: number {NUM_ROWS} is not below {NUM_ROWS}",
        ),
        ("push_rows", lambda a: a[:-1], "push has .* rows, 7 lengths that sum to"),
        (
            "push_rows",
            lambda a: np.pad(a, ((0, 0), (0, 1))),
            "push: numbers of 2 bytes, expected 1",
        ),
        (
            "pull_lengths",
            lambda a: np.roll(np.minimum(a + 1, 4), 1),
            "pull has .* rows, 7 lengths that sum to",
        ),
        ("pull_lengths", lambda a: np.full_like(a, 5), "pull: number 5 is not below 5"),
        (
            "push_lengths",
            lambda a: np.append(a, [[0]], axis=0).astype(np.uint8),
            "8 lengths that sum to .* and 7 positions",
        ),
        ("sense_weights", lambda a: a[1:], "sense_weights has shape"),
        ("sense_weights", lambda a: np.full_like(a, np.nan), "negative or not finite"),
        ("sense_weights", lambda a: -1 - a, "negative or not finite"),
        ("sense_neighbours", lambda a: a[1:], "sense_neighbours has shape"),
        ("sense_neighbours", lambda a: a + 2, "other than 0 and 1"),
    ],
)
def test_an_invalid_choice_is_refused(name: str, change: Any, message: str) -> None:
    arrays = chosen_arrays(chosen(), FORM)
    read_chosen(arrays, FORM, 7)
    with pytest.raises(ValueError, match=message):
        read_chosen(arrays | {name: change(arrays[name])}, FORM, 7)


def test_a_set_that_the_request_does_not_allow_is_not_sent() -> None:
    with pytest.raises(ValueError, match="the request allows 2"):
        chosen_arrays(chosen(), FORM.model_copy(update={"most": 2}))

"""The slowest student is named with its factor."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dskd_ds.observe.stragglers import Slowest, Stragglers, factors


@pytest.mark.parametrize("num_ranks", [2, 3, 8])
def test_a_slow_rank_is_named_once_with_its_factor_within_50_steps(num_ranks: int) -> None:
    """All ranks vary by 20 percent; from step 10 on one takes three times as long."""
    draw, stragglers = random.Random(0), Stragglers()
    named: dict[int, Slowest] = {}
    for step in range(90):
        times = [draw.uniform(0.9, 1.1) for _ in range(num_ranks)]
        if step >= 10:
            times[-1] *= 3
        stragglers.add(times)
        straggler = stragglers.new_straggler()
        if straggler:
            named[step] = straggler
    ((step, straggler),) = named.items()
    assert 10 < step <= 10 + 50
    assert straggler.rank == num_ranks - 1
    assert straggler.factor == pytest.approx(3, rel=0.15)


def test_a_single_slow_step_names_nobody() -> None:
    stragglers = Stragglers()
    for step in range(20):
        stragglers.add([1.0, 9.0 if step == 7 else 1.0])
    assert stragglers.slowest() == Slowest(0, 1.0)


@given(st.lists(st.floats(0.1, 10.0), min_size=2, max_size=9))
def test_factors_are_those_of_the_slow_and_obvious_way(times: list[float]) -> None:
    expected = []
    for rank, own in enumerate(times):
        others = [time for other, time in enumerate(times) if other != rank]
        expected.append(own / statistics.median(others))
    assert factors(times) == pytest.approx(expected)


def test_one_rank_has_nobody_to_wait_for() -> None:
    assert factors([2.0]) == [1.0]
    assert factors([0.0, 0.0]) == [1.0, 1.0]

"""Tests of the run model against closed forms for saves, failures and restarts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_ds.costs.simulate.launches import SimulatedLaunches, simulate_launches
from dskd_ds.costs.simulate.run import simulate, window_steps
from dskd_ds.costs.simulate.run_costs import Pauses, RunCosts

COSTS = RunCosts(
    num_students=2,
    num_teachers=2,
    num_steps=1000,
    step_tokens=8192,
    num_micro_batches=2,
    own=10.0,
    teacher=1.0,
)


def launches(
    pauses: Pauses, num_steps: int = 1000, *, seed: int = 0, step: float = 10.0
) -> SimulatedLaunches:
    costs = replace(COSTS, num_steps=num_steps, pauses=pauses)
    return simulate_launches(costs, lambda _: step, seed)


def test_saves_stop_the_training() -> None:
    by_steps = launches(Pauses(save_every_steps=100, save_blocks=7.0, save_written=7.0))
    by_time = launches(Pauses(save_every_seconds=500.0, save_blocks=7.0, save_written=7.0))

    # The last of the ten saves is the end of the run.
    assert by_steps.seconds == 1000 * 10.0 + 9 * 7.0
    assert by_time.seconds == 1000 * 10.0 + 19 * 7.0
    assert by_steps.trained == by_time.trained == 10_000.0


def test_an_asynchronous_save_blocks_for_its_copy_and_for_an_earlier_save() -> None:
    soon = launches(Pauses(save_every_steps=1, save_blocks=1.0, save_written=31.0), 10)
    late = launches(Pauses(save_every_steps=5, save_blocks=1.0, save_written=31.0), 10)

    assert late.saved == 1.0
    # After the first save, each waits for the 30 s of writing that a step of 10 s leaves 20 s of.
    assert soon.saved == pytest.approx(9 * 1.0 + 8 * 20.0)


def test_lost_time_is_that_of_young_and_daly() -> None:
    interval, save, restart, mean = 600.0, 30.0, 120.0, 5000.0
    pauses = Pauses(
        save_every_steps=10,
        save_blocks=save,
        save_written=save,
        failure_interval=mean,
        restart=restart,
    )

    segments = 12_000
    simulated = launches(pauses, num_steps=10 * segments, step=interval / 10)

    # Daly (2006), equation 13: restarts may fail as well. Failures are exponential.
    expected = mean * math.exp(restart / mean) * math.expm1((interval + save) / mean) * segments
    assert simulated.seconds == pytest.approx(expected, rel=0.01)
    assert simulated.num_failures == pytest.approx(simulated.seconds / mean, rel=0.02)
    # Young's first-order estimate is for rare failures: 2 % off here.
    young = save / interval + (interval + save) / (2 * mean) + restart / mean
    assert simulated.seconds / simulated.trained - 1 == pytest.approx(young, rel=0.15)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    blocks=st.floats(0, 20),
    written=st.floats(0, 200),
    failure=st.floats(100, 5000),
    teacher_failure=st.floats(100, 5000),
    every=st.integers(1, 30),
)
def test_every_second_is_accounted_for(
    seed: int, blocks: float, written: float, failure: float, teacher_failure: float, every: int
) -> None:
    pauses = Pauses(
        save_every_steps=every,
        save_blocks=blocks,
        save_written=blocks + written,
        failure_interval=max(failure, 4 * (10 * every + blocks + written)),
        restart=50.0,
        teacher_failure_interval=teacher_failure,
        teacher_return=30.0,
    )

    seen = launches(pauses, num_steps=100, seed=seed)

    parts = seen.trained + seen.repeated + seen.saved + seen.restarted + seen.without_teachers
    assert parts == pytest.approx(seen.seconds, abs=1e-6)
    assert seen.trained == pytest.approx(1000.0)


def test_a_failure_repeats_the_steps_since_the_newest_checkpoint() -> None:
    pauses = Pauses(save_every_steps=10, failure_interval=4000.0, restart=60.0)

    seen = launches(pauses, num_steps=2000)

    assert seen.num_failures > 0
    assert seen.restarted >= 60.0 * seen.num_failures - 60.0
    # At most ten steps of ten seconds are lost each time.
    assert 0 < seen.repeated <= 100.0 * seen.num_failures


def test_fewer_teachers_make_longer_steps_until_they_are_back() -> None:
    pauses = Pauses(teacher_failure_interval=2000.0, teacher_return=500.0)
    costs = replace(COSTS, pauses=pauses)

    with_both = simulate_launches(replace(costs, pauses=Pauses()), lambda _: 10.0)
    seen = simulate_launches(costs, lambda num_alive: 10.0 if num_alive == 2 else 20.0)

    assert seen.num_teacher_failures > 0
    assert seen.seconds > with_both.seconds
    assert seen.trained == seen.seconds - seen.without_teachers


def test_a_whole_run_joins_both_models() -> None:
    pauses = Pauses(save_every_steps=100, save_blocks=5.0, save_written=5.0)
    costs = replace(COSTS, own=1.0, num_steps=500, pauses=pauses)

    run = simulate(costs)

    # Four requests of one second and two teachers: a step takes 2 s.
    assert run.step_seconds == pytest.approx(2.0, rel=0.01)
    assert run.teacher_wait_seconds == pytest.approx(1.0, rel=0.01)
    assert run.hours == pytest.approx((500 * 2.0 + 4 * 5.0) / 3600, rel=0.01)
    assert run.tokens_per_second == pytest.approx(8192 / 2.0, rel=0.03)
    assert run.lost_share == pytest.approx(20 / 1020, rel=0.05)
    assert simulate(costs) == run


def test_the_step_model_follows_a_bounded_number_of_requests() -> None:
    many = replace(COSTS, num_students=4096, num_micro_batches=4)

    assert window_steps(many) == 30
    assert window_steps(COSTS) == 200

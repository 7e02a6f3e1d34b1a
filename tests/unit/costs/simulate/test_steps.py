"""Tests of the step model against closed forms, and against the formulas of costs/time.py."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_ds.costs.simulate.run_costs import RunCosts
from dskd_ds.costs.simulate.steps import simulate_steps
from dskd_ds.costs.time import TeacherTime, supply_seconds
from dskd_ds.costs.work import StepWork
from tests.unit.costs.test_time import SHAPE

COSTS = RunCosts(
    num_students=4,
    num_teachers=2,
    num_steps=100,
    step_tokens=4096,
    num_micro_batches=3,
    own=10.0,
    teacher=1.0,
    transfer=0.25,
)


def test_a_run_without_waits_takes_its_first_reply_and_its_own_steps() -> None:
    costs = replace(COSTS, num_students=1, num_teachers=1)

    simulated = simulate_steps(costs)

    # The first step waits for three requests, one after another, and the last reply's way.
    assert simulated.seconds == pytest.approx(3 * 1.0 + 0.25 + 100 * 10.0, rel=1e-9)
    assert simulated.steady_wait() == 0.0
    assert simulated.teacher_busy[0] == pytest.approx(300 / simulated.seconds)


@pytest.mark.parametrize("num_teachers", [1, 2, 3, 6])
def test_too_few_teachers_give_the_rate(num_teachers: int) -> None:
    costs = replace(COSTS, num_students=12, num_teachers=num_teachers, own=1.0, num_steps=200)

    simulated = simulate_steps(costs)

    supply = 12 * 3 * 1.0 / num_teachers
    assert simulated.steady() == pytest.approx(supply, rel=0.01)
    assert simulated.teacher_busy == pytest.approx([1.0] * num_teachers, rel=0.01)


def test_the_rates_of_unequal_teachers_add_up() -> None:
    costs = replace(
        COSTS, num_students=8, num_micro_batches=8, own=0.5, slow_teachers={1: 4.0}, credits=4
    )

    simulated = simulate_steps(costs)

    # In the time of 4 requests of teacher 0, teacher 1 answers one.
    assert simulated.steady() == pytest.approx(64 * 4 / 5, rel=0.01)


def test_slow_teachers_are_spared_if_the_others_are_enough() -> None:
    costs = replace(
        COSTS, num_students=8, num_teachers=10, own=4.0, slow_teachers={0: 5.0}, num_steps=60
    )

    simulated = simulate_steps(costs)

    # 24 requests of one second and nine teachers: 2.7 s of each step's 4.
    assert simulated.steady_wait() == 0.0
    assert simulated.teacher_busy[0] < 0.5


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_late_replies_cost_what_the_prefetch_does_not_hide(depth: int) -> None:
    costs = replace(
        COSTS,
        num_students=1,
        num_teachers=8,
        num_micro_batches=1,
        own=1.0,
        transfer=30.0,
        prefetch_depth=depth,
        num_steps=60 * (depth + 1),
    )

    simulated = simulate_steps(costs)

    assert simulated.steady() == pytest.approx((1.0 + 30.0 + 1.0) / (depth + 1), rel=0.01)


def test_a_students_link_receives_one_reply_at_a_time() -> None:
    """Sixteen teachers are more than enough, but eight replies of one second need eight seconds."""
    costs = replace(
        COSTS,
        num_students=1,
        num_teachers=16,
        num_micro_batches=8,
        own=4.0,
        teacher=0.5,
        transfer=1.0,
        receiving=1.0,
    )

    assert simulate_steps(costs).steady() == pytest.approx(8.0, rel=0.01)
    # Each student has a link of its own.
    assert simulate_steps(replace(costs, num_students=3)).steady() == pytest.approx(8.0, rel=0.01)


@settings(max_examples=20)
@given(
    num_students=st.integers(1, 6),
    num_teachers=st.integers(1, 4),
    micro=st.integers(1, 4),
    own=st.floats(0.5, 20),
    teacher=st.floats(0.1, 3),
    transfer=st.floats(0, 3),
)
def test_the_formula_and_the_simulator_agree(
    num_students: int, num_teachers: int, micro: int, own: float, teacher: float, transfer: float
) -> None:
    costs = RunCosts(
        num_students=num_students,
        num_teachers=num_teachers,
        num_steps=120,
        step_tokens=1,
        num_micro_batches=micro,
        own=own,
        teacher=teacher,
        transfer=transfer,
        receiving=transfer,
        prefetch_depth=8,
        credits=64,
    )
    work = StepWork(
        shape=SHAPE,
        num_ranks=num_students,
        row_tokens=1,
        rows_per_micro_batch=1,
        num_micro_batches=micro,
        trained_layers=1,
    )
    time = TeacherTime(layers=teacher, head=0.0, all_reduce=0.0, senses=0.0, transfer=transfer)

    expected = max(own, supply_seconds(work, time, num_teachers, 8, own))

    # The mean is over 60 steps. Answers that are under way at its two ends make up to two answers'
    # difference (1,500 random cases, and 600 with transfer).
    answers = 3 * teacher / 60
    assert simulate_steps(costs).steady() == pytest.approx(expected, rel=0.02, abs=answers)


def test_a_step_takes_as_long_as_its_slowest_student() -> None:
    simulated = simulate_steps(replace(COSTS, slow_students={2: 1.5}))

    assert simulated.steady() == pytest.approx(15.0)


def test_jitter_lengthens_steps_and_is_drawn_from_the_seed() -> None:
    costs = replace(COSTS, jitter=0.1)

    first, again, other = (simulate_steps(costs, seed) for seed in (1, 1, 2))

    assert first == again
    assert first.seconds != other.seconds
    # The slowest of four students has a factor above 1 on average.
    assert 10.3 < first.steady() < 11.5


def test_the_requests_of_a_killed_teacher_go_to_the_other_one() -> None:
    killed = replace(COSTS, own=4.0, killed_teachers={1: 103.0}, notice=20.0, num_steps=60)

    simulated = simulate_steps(killed)

    # Twelve requests of one second: two teachers need 6 s per step, one needs 12 s.
    times = [step.seconds for step in simulated.steps]
    assert fmean(times[3:15]) == pytest.approx(6.0, rel=0.05)
    assert fmean(times[-10:]) == pytest.approx(12.0, rel=0.01)
    # Both the notice and the lost work are in the steps around the failure.
    assert max(times) > 12.0
    assert len(times) == 60


def test_nothing_ends_if_every_teacher_was_killed() -> None:
    costs = replace(COSTS, killed_teachers={0: 50.0, 1: 50.0})

    with pytest.raises(RuntimeError):
        simulate_steps(costs)

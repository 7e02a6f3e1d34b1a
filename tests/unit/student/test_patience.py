"""How long a rank may stay in a phase: pauses of the process do not count, signals shorten it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dskd_ds.spec import load_spec
from dskd_ds.student.phases import (
    EXPORTING,
    LOADING,
    PLANNING,
    SAVING,
    VERDICT,
    WAITING,
    Phase,
    Phases,
)
from dskd_ds.student.replies.patience import (
    LONGEST_TICK_SECONDS,
    MEDIAN_FACTOR,
    Limits,
    Patience,
    Stuck,
)

LIMITS = Limits(hang=100.0, teacher=50.0, stop=10.0)


def phase(name: str = "forward", count: int = 1) -> Phase:
    return Phase(name, step=3, count=count, since=0.0)


def watch(patience: Patience, name: str, seconds: int, median: float = 0.0) -> Stuck | None:
    """Look once per second until the rank counts as stuck, for at most so many seconds."""
    patience.look(phase(name), median, patience._last_look)
    for _ in range(seconds):
        stuck = patience.look(phase(name), median, patience._last_look + 1.0)
        if stuck:
            return stuck
    return None


@pytest.mark.parametrize("name", ["forward", "backward", "optimiser step", "metrics", SAVING])
def test_a_phase_that_lasts_too_long_is_stuck(name: str) -> None:
    assert watch(Patience(LIMITS, 0.0), name, 100) is None
    stuck = watch(Patience(LIMITS, 0.0), name, 200)
    assert stuck == Stuck(phase(name), 101.0, "hang_seconds", 100.0)


def test_loading_has_no_limit_and_waiting_has_the_teachers_too() -> None:
    assert watch(Patience(LIMITS, 0.0), LOADING, 1000) is None
    for name in (PLANNING, WAITING, VERDICT):
        stuck = watch(Patience(LIMITS, 0.0), name, 200)
        assert stuck is not None
        assert stuck.seconds == 151.0


def test_twenty_median_steps_are_allowed() -> None:
    median = 10.0
    stuck = watch(Patience(LIMITS, 0.0), "forward", 300, median)
    assert stuck is not None
    assert stuck.seconds == MEDIAN_FACTOR * median + 1


def test_a_new_phase_starts_anew_even_under_the_same_name() -> None:
    patience = Patience(LIMITS, 0.0)
    for second in range(1000):
        assert patience.look(phase(count=second // 90), 0.0, float(second)) is None


@given(pauses=st.lists(st.floats(1000, 1e6), max_size=20), hang=st.floats(50, 200))
def test_pauses_of_the_process_are_not_the_ranks_silence(pauses: list[float], hang: float) -> None:
    """Twenty looks after pauses of any length count at most two seconds each."""
    patience = Patience(Limits(hang=hang, teacher=0.0, stop=1.0), 0.0)
    now = 0.0
    assert patience.look(phase(), 0.0, now) is None
    for pause in pauses:
        now += pause
        stuck = patience.look(phase(), 0.0, now)
        assert (stuck is None) or len(pauses) * LONGEST_TICK_SECONDS > hang


@pytest.mark.parametrize("name", ["forward", VERDICT, WAITING])
def test_after_a_signal_the_grace_time_counts(name: str) -> None:
    patience = Patience(LIMITS, 0.0)
    assert watch(patience, name, 50) is None
    patience.note_stop()
    patience.note_stop()  # a second signal changes nothing
    stuck = None
    for second in range(51, 80):
        stuck = stuck or patience.look(phase(name), 0.0, float(second))
    assert stuck is not None
    assert (stuck.setting, stuck.seconds) == ("stop_grace_seconds", 11.0)


@pytest.mark.parametrize("name", [SAVING, EXPORTING])
def test_a_save_after_a_signal_may_take_its_time(name: str) -> None:
    patience = Patience(LIMITS, 0.0)
    patience.note_stop()
    assert watch(patience, name, 99) is None


def test_zero_turns_the_limits_off() -> None:
    settings = ["train.hang_seconds=0", "train.stop_grace_seconds=0"]
    limits = Limits.of(load_spec("tests/base_run.toml", settings))
    assert limits.of_phase("forward", 1.0) == limits.after_stop("forward", 1.0) == math.inf


def test_phases_are_counted_and_keep_the_step() -> None:
    phases = Phases()
    assert phases.current.name == LOADING
    phases.enter(WAITING, step=7)
    phases.enter("forward")
    assert (phases.current.name, phases.current.step, phases.current.count) == ("forward", 7, 2)
    assert phases.median_step_seconds() == 0
    for seconds in (1.0, 9.0, 2.0):
        phases.note_step(seconds)
    assert phases.median_step_seconds() == 2.0

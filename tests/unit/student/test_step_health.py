"""How long each rank itself computed, from what the ranks measured."""

from __future__ import annotations

import pytest
import torch

from dskd_ds.observe.memory import MemoryBefore, memory_before
from dskd_ds.observe.stragglers import SLOW_FACTOR, WINDOW_STEPS, Slowest, Stragglers
from dskd_ds.student import step_health
from dskd_ds.student.replies.feed import StepInput
from dskd_ds.student.step_health import RankStep, StepHealth, compute_seconds


def rank_step(seconds: float, collectives: float, waits: float = 0.0) -> RankStep:
    """Return a rank's step with equal waits for the teacher and for senses."""
    return RankStep(
        seconds=seconds,
        teacher_wait=waits / 2,
        sense_wait=waits / 2,
        collectives=collectives,
        host_bytes=0,
        device_bytes=0,
    )


@pytest.mark.parametrize(("is_overlapping", "expected"), [(False, [3.0, 1.0]), (True, [4.0, 2.0])])
def test_waits_for_a_slow_rank_are_not_computation(
    is_overlapping: bool, expected: list[float]
) -> None:
    """Sending takes 1 s; the second rank waits 2 s for the first one, and both for the teacher."""
    ranks = [rank_step(5.0, 1.0, waits=1.0), rank_step(5.0, 3.0, waits=1.0)]
    assert compute_seconds(ranks, is_overlapping) == expected


@pytest.mark.parametrize(("peak", "engine"), [(70, 50), (60, 0)])
def test_a_peak_from_before_the_engine_is_not_the_engines(
    monkeypatch: pytest.MonkeyPatch, peak: int, engine: int
) -> None:
    """A teacher that measured the layers, or a repair, took 60 bytes before."""
    monkeypatch.setattr(step_health, "peak_host_bytes", lambda: peak)
    monkeypatch.setattr(step_health, "peak_device_bytes", lambda: 0)
    health = StepHealth(before=MemoryBefore(resident=20, peak=60))
    assert health.end_step(StepInput([], 0.0, 0.0, 0)).engine_bytes == engine


@pytest.mark.parametrize("is_initialized", [True, False])
def test_the_peak_of_the_gpu_begins_where_the_engine_is_made(
    monkeypatch: pytest.MonkeyPatch, is_initialized: bool
) -> None:
    resets: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: is_initialized)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: resets.append(True))
    before = memory_before()
    assert resets == [True] * is_initialized
    assert min(before.resident, before.peak) > 0


def test_clocks_that_disagree_give_no_negative_time() -> None:
    assert compute_seconds([rank_step(1.0, 1.5)], is_overlapping=False) == [0.0]


def test_a_straggler_is_reported_once_and_not_in_the_first_steps() -> None:
    stragglers = Stragglers()
    found = []
    for _ in range(3 * WINDOW_STEPS):
        stragglers.add([1.0, 1.0, 2.5])
        found.append(stragglers.new_straggler())
    assert [slow for slow in found if slow] == [Slowest(2, 2.5)]
    assert found.index(Slowest(2, 2.5)) == WINDOW_STEPS - 1


def test_ranks_that_differ_a_little_are_not_reported() -> None:
    stragglers = Stragglers()
    for _ in range(2 * WINDOW_STEPS):
        stragglers.add([1.0, 0.95 * SLOW_FACTOR])
        assert stragglers.new_straggler() is None

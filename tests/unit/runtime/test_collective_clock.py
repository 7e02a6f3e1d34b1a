"""The clock of collectives counts waits, nested calls once, and leaves the rest as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dskd_ds.runtime.collective_clock import (
    CollectiveClock,
    HostStopwatch,
    StreamStopwatch,
    TimedHandle,
)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Handle:
    """The handle of an asynchronous collective, for which a wait takes 3 s."""

    source = "the handle's own attribute"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def wait(self) -> str:
        """Wait."""
        self._clock.now += 3
        return "waited"


class Backend:
    """A backend whose collectives take a second each."""

    name = "fake"
    all_gather_coalesced: Callable[..., Any] | None = None

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def all_reduce(self, tensor: str) -> str:
        """Take a second."""
        self._clock.now += 1
        return f"sum of {tensor}"

    def all_gather_into_tensor(self, async_op: bool = False) -> Handle | None:
        """Take a second, and for a wait three more."""
        self._clock.now += 1
        return Handle(self._clock) if async_op else None

    def reduce_scatter(self) -> None:
        """Take a second, and another one in a collective that it is made of."""
        self._clock.now += 1
        self.all_reduce("parts")

    def broadcast(self) -> None:
        """Fail after a second."""
        self._clock.now += 1
        raise RuntimeError("a peer is gone")

    def get_rank(self) -> int:
        """Take a second, but not for other ranks."""
        self._clock.now += 1
        return 0


@pytest.fixture
def clock() -> Clock:
    """A clock at 0."""
    return Clock()


@pytest.fixture
def backend(clock: Clock) -> Backend:
    """A backend with that clock."""
    return Backend(clock)


@pytest.fixture
def timed(clock: Clock, backend: Backend) -> CollectiveClock:
    """The collective clock of that backend."""
    return CollectiveClock(HostStopwatch(clock)).install(backend)


def test_collectives_count_and_other_calls_do_not(backend: Backend, timed: CollectiveClock) -> None:
    assert backend.all_reduce("x") == "sum of x"
    assert backend.get_rank() == 0
    assert timed.take_seconds() == 1
    assert timed.take_seconds() == 0


def test_a_collective_that_is_made_of_others_counts_once(
    backend: Backend, timed: CollectiveClock
) -> None:
    backend.reduce_scatter()
    assert timed.take_seconds() == 2


def test_the_wait_for_an_asynchronous_collective_counts(
    clock: Clock, backend: Backend, timed: CollectiveClock
) -> None:
    handle = backend.all_gather_into_tensor(async_op=True)
    assert isinstance(handle, TimedHandle)
    clock.now += 10  # computes meanwhile
    assert handle.wait() == "waited"
    assert handle.source == "the handle's own attribute"
    assert timed.take_seconds() == 1 + 3
    assert backend.all_gather_into_tensor() is None


def test_time_counts_after_an_error_too(backend: Backend, timed: CollectiveClock) -> None:
    with pytest.raises(RuntimeError, match="a peer is gone"):
        backend.broadcast()
    backend.all_reduce("x")
    assert timed.take_seconds() == 2


def test_a_gpu_is_timed_by_events_on_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()

    class Event:
        """An event that notes the clock when it is recorded."""

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            self.is_synchronized = False

        def record(self) -> None:
            """Note the time."""
            self.at = clock.now

        def synchronize(self) -> None:
            """Note the call."""
            self.is_synchronized = True

        def elapsed_time(self, end: Event) -> float:
            """Return milliseconds."""
            assert end.is_synchronized
            return (end.at - self.at) * 1000

    monkeypatch.setattr(torch.cuda, "Event", Event)
    stopwatch = StreamStopwatch()
    for seconds in (1, 3):
        begun = stopwatch.begin()
        clock.now += seconds
        stopwatch.end(begun)
        clock.now += 10
    assert stopwatch.take_seconds() == 4
    assert stopwatch.take_seconds() == 0

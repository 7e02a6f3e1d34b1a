"""Measures how long this rank is inside of collectives: it sends, and waits for slower ranks.

What is left of a step is the rank's own work, by which a slow rank can be told from those that wait
for it. The clock wraps DeepSpeed's backend, through which DeepSpeed and this project communicate.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

TIMED = (
    "all_gather",
    "all_gather_coalesced",
    "all_gather_into_tensor",
    "all_reduce",
    "all_reduce_coalesced",
    "all_to_all_single",
    "barrier",
    "broadcast",
    "gather",
    "inference_all_reduce",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "scatter",
)
"""Methods of DeepSpeed's backend that wait for other ranks."""


class Stopwatch(Protocol):
    """Adds up the lengths of time spans."""

    def begin(self) -> Any:
        """Begin a span; the result goes to `end`."""
        ...

    def end(self, begun: Any) -> None:
        """End a span."""
        ...

    def take_seconds(self) -> float:
        """Return the sum of all spans since the last call."""
        ...


class HostStopwatch:
    """Times spans by the clock of the host, for ranks on a CPU: their collectives block."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds = 0.0

    def begin(self) -> float:
        """See Stopwatch."""
        return self._clock()

    def end(self, begun: float) -> None:
        """See Stopwatch."""
        self._seconds += self._clock() - begun

    def take_seconds(self) -> float:
        """See Stopwatch."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class StreamStopwatch:
    """Times spans by events on the GPU's current stream, because the host does not wait for it.

    Collectives on a GPU overlap with computation: their sum may exceed what they cost.
    """

    def __init__(self) -> None:
        self._spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def begin(self) -> torch.cuda.Event:
        """See Stopwatch."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def end(self, begun: torch.cuda.Event) -> None:
        """See Stopwatch."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._spans.append((begun, event))

    def take_seconds(self) -> float:
        """See Stopwatch. Waits for the events, so call it when the step is done."""
        spans, self._spans = self._spans, []
        milliseconds = 0.0
        for begun, ended in spans:
            ended.synchronize()
            milliseconds += begun.elapsed_time(ended)
        return milliseconds / 1000


def default_stopwatch(has_gpu: bool) -> Stopwatch:
    """Return the stopwatch of this machine's devices."""
    return StreamStopwatch() if has_gpu else HostStopwatch()


class CollectiveClock:
    """The time that this rank spends in collectives; 0 until it is installed."""

    def __init__(self, stopwatch: Stopwatch | None = None) -> None:
        """stopwatch: by default that of this machine's devices."""
        self.is_overlapping = torch.cuda.is_available()
        """Whether collectives run beside computation, so that their time is no loss by itself."""
        self._stopwatch = stopwatch or default_stopwatch(self.is_overlapping)
        self._is_inside = False

    def install(self, backend: Any) -> CollectiveClock:
        """Time the collectives of a DeepSpeed backend from now on, and return this clock."""
        for name in TIMED:
            collective = getattr(backend, name, None)
            if callable(collective):
                setattr(backend, name, self._timed(collective))
        return self

    def take_seconds(self) -> float:
        """Return the seconds in collectives since the last call."""
        return self._stopwatch.take_seconds()

    def _timed(self, collective: Callable[..., Any]) -> Callable[..., Any]:
        """Return a collective that is timed, together with the wait for it if it is asynchronous.

        A collective that is made of others counts once.
        """

        @functools.wraps(collective)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._is_inside:
                return collective(*args, **kwargs)
            self._is_inside = True
            begun = self._stopwatch.begin()
            try:
                handle = collective(*args, **kwargs)
            finally:
                self._stopwatch.end(begun)
                self._is_inside = False
            return TimedHandle(handle, self._stopwatch) if hasattr(handle, "wait") else handle

        # As DeepSpeed's own collectives, it stays outside of compiled code.
        uncompiled: Callable[..., Any] = torch.compiler.disable(timed)
        return uncompiled


class TimedHandle:
    """The handle of an asynchronous collective, whose wait is timed."""

    def __init__(self, handle: Any, stopwatch: Stopwatch) -> None:
        self._handle, self._stopwatch = handle, stopwatch

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for the collective."""
        begun = self._stopwatch.begin()
        try:
            return self._handle.wait(*args, **kwargs)
        finally:
            self._stopwatch.end(begun)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

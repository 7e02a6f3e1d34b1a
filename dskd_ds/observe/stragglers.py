"""Finds the student that computes longer than the others."""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

WINDOW_STEPS = 20
"""Number of last steps over which a rank's factor is the median."""
SLOW_FACTOR = 1.5
"""A rank whose factor is at least this is a straggler."""


@dataclass(frozen=True)
class Slowest:
    """The student that computes longest."""

    rank: int
    factor: float
    """Its own computation time per step, divided by the median of the other students'; the median
    of the last `WINDOW_STEPS` steps. 1.0 without other students."""


class Stragglers:
    """Compares the ranks' own computation times over the last steps."""

    def __init__(self) -> None:
        self._factors: deque[list[float]] = deque(maxlen=WINDOW_STEPS)
        self._named: set[int] = set()

    def add(self, compute_seconds: Sequence[float]) -> None:
        """Take in one step's computation time of each rank, without waits and collectives."""
        self._factors.append(factors(compute_seconds))

    def slowest(self) -> Slowest:
        """Return the slowest rank of the last steps. Call it after `add`."""
        by_rank = [statistics.median(values) for values in zip(*self._factors, strict=True)]
        factor = max(by_rank)
        return Slowest(by_rank.index(factor), factor)

    def new_straggler(self) -> Slowest | None:
        """Return the slowest rank if it is a straggler, each rank once; else None.

        The window must be full: the first steps of a launch are slow for other reasons.
        """
        if len(self._factors) < WINDOW_STEPS:
            return None
        slowest = self.slowest()
        if slowest.factor < SLOW_FACTOR or slowest.rank in self._named:
            return None
        self._named.add(slowest.rank)
        return slowest


def factors(compute_seconds: Sequence[float]) -> list[float]:
    """Return each rank's time divided by the median of the others' times."""
    if len(compute_seconds) == 1:
        return [1.0]
    ordered = sorted(compute_seconds)
    medians = [_median_without(ordered, bisect_left(ordered, time)) for time in compute_seconds]
    pairs = zip(compute_seconds, medians, strict=True)
    return [time / median if median > 0 else 1.0 for time, median in pairs]


def _median_without(ordered: list[float], left_out: int) -> float:
    """Return the median of sorted times without the one at index `left_out`."""
    num_others = len(ordered) - 1
    middle = {(num_others - 1) // 2, num_others // 2}
    # From the time that is left out on, all others have moved up by one place.
    return statistics.mean(ordered[index + (index >= left_out)] for index in middle)

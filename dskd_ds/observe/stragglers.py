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
        self._suspect, self._num_suspected = 0, 0
        """The rank that is slow now, and for how many steps in a row it has been."""
        self._named: set[int] = set()

    def add(self, compute_seconds: Sequence[float]) -> None:
        """Take in one step's computation time of each rank, without waits and collectives."""
        self._factors.append(factors(compute_seconds))
        slowest = self.slowest()
        is_same = slowest.rank == self._suspect
        self._num_suspected = self._num_suspected + 1 if is_same else 1
        if slowest.factor < SLOW_FACTOR:
            self._num_suspected = 0
        self._suspect = slowest.rank

    def slowest(self) -> Slowest:
        """Return the slowest rank of the last steps. Call it after `add`."""
        by_rank = [statistics.median(values) for values in zip(*self._factors, strict=True)]
        factor = max(by_rank)
        return Slowest(by_rank.index(factor), factor)

    def new_straggler(self) -> Slowest | None:
        """Return the slowest rank if it has been a straggler for a whole window; each rank once.

        Then its factor holds no steps from before it became slow, nor a launch's slow first steps.
        """
        if self._num_suspected < WINDOW_STEPS or self._suspect in self._named:
            return None
        self._named.add(self._suspect)
        return self.slowest()


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

"""How long a rank may stay in one phase, and how long it has been in it. No threads, no clocks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dskd_ds.spec import RunSpec
from dskd_ds.student.phases import EXPORTING, LOADING, PLANNING, SAVING, VERDICT, WAITING, Phase

MEDIAN_FACTOR = 20.0
"""A phase may also last this many median steps, if that is longer than the limit in seconds."""
LONGEST_TICK_SECONDS = 2.0
"""The longest time between two looks that counts. A longer one is a pause of this process, for
example SIGSTOP or a frozen machine, and not the training thread's silence."""


@dataclass(frozen=True)
class Limits:
    """Longest times in one phase, in seconds; infinite where there is no limit."""

    hang: float
    """For any phase but loading, which may download."""
    teacher: float
    """Added while this rank, or another one for which it waits, waits for its teacher; and while it
    plans, because the student may then write the text of several steps at once."""
    stop: float
    """After a signal that asks for a stop, except while saving."""

    @staticmethod
    def of(spec: RunSpec) -> Limits:
        """Return the limits of a run."""
        train = spec.train
        return Limits(
            hang=train.hang_seconds or math.inf,
            teacher=spec.link.teacher_wait_seconds,
            stop=train.stop_grace_seconds or math.inf,
        )

    def of_phase(self, name: str, median_step_seconds: float) -> float:
        """Return the longest time that a phase may last."""
        if name == LOADING:
            return math.inf
        extra = self.teacher if name in (PLANNING, WAITING, VERDICT) else 0.0
        return max(self.hang, MEDIAN_FACTOR * median_step_seconds) + extra

    def after_stop(self, name: str, median_step_seconds: float) -> float:
        """Return how long a phase may still last after a signal that asks for a stop."""
        if name in (LOADING, SAVING, EXPORTING):
            return math.inf
        return max(self.stop, MEDIAN_FACTOR * median_step_seconds)


@dataclass(frozen=True)
class Stuck:
    """A rank that has been in one phase for too long."""

    phase: Phase
    seconds: float
    """In the phase, or since the signal, without pauses of the process."""
    setting: str
    """The setting that limits it."""
    limit_seconds: float


class Patience:
    """Measures how long the rank has been in its phase."""

    def __init__(self, limits: Limits, now: float) -> None:
        """now: by the monotonic clock."""
        self._limits = limits
        self._last_look = now
        self._count = -1
        self._seconds = 0.0
        self._seconds_since_stop = 0.0
        self._is_stop_wanted = False

    def note_stop(self) -> None:
        """Take in that a signal has asked this rank to stop. A second one changes nothing."""
        self._is_stop_wanted = True

    def look(self, phase: Phase, median_step_seconds: float, now: float) -> Stuck | None:
        """Return why the rank counts as stuck, or None. Call it about once per second."""
        passed = min(now - self._last_look, LONGEST_TICK_SECONDS)
        self._last_look = now
        if phase.count != self._count:
            self._count = phase.count
            self._seconds = self._seconds_since_stop = 0.0
            return None
        self._seconds += passed
        limit = self._limits.of_phase(phase.name, median_step_seconds)
        if self._seconds > limit:
            return Stuck(phase, self._seconds, "hang_seconds", limit)
        if self._is_stop_wanted:
            self._seconds_since_stop += passed
            limit = self._limits.after_stop(phase.name, median_step_seconds)
            if self._seconds_since_stop > limit:
                return Stuck(phase, self._seconds_since_stop, "stop_grace_seconds", limit)
        return None

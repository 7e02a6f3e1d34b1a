"""Which phase of its work a rank is in: the training thread enters phases, the watchdog reads them.

All ranks enter the same phases in the same order, so the count of phases shows who is behind.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from dataclasses import dataclass

from dskd_ds.observe.run_files import WAITING_FOR_TEACHER

LOADING = "loading"
PLANNING = "planning"
"""Reads the text of coming steps, or lets the student write it, and sends their requests."""
WAITING = WAITING_FOR_TEACHER
VERDICT = "verdict"
SAVING = "save"
MEASURING = "held-out loss"
EXPORTING = "export"
ENDED = "ended"

STEPS_IN_MEDIAN = 101


@dataclass(frozen=True)
class Phase:
    """What a rank does now."""

    name: str
    step: int
    """Number of optimiser steps that are done."""
    count: int
    """Phases entered so far."""
    since: float
    """When it began, in Unix seconds."""


class Phases:
    """The present phase of this rank. Only the training thread enters phases."""

    def __init__(self) -> None:
        self.current = Phase(LOADING, step=0, count=0, since=time.time())
        self._step_seconds: deque[float] = deque(maxlen=STEPS_IN_MEDIAN)

    def enter(self, name: str, step: int | None = None) -> None:
        """Begin a phase. step: steps that are done; by default as many as before."""
        before = self.current
        # One assignment, so the watchdog never sees a phase half entered.
        self.current = Phase(
            name=name,
            step=before.step if step is None else step,
            count=before.count + 1,
            since=time.time(),
        )

    def note_step(self, seconds: float) -> None:
        """Take in how long a step took."""
        self._step_seconds.append(seconds)

    def median_step_seconds(self) -> float:
        """Return the median duration of the last steps; 0 before the first one."""
        seconds = self._step_seconds.copy()
        return statistics.median(seconds) if seconds else 0.0

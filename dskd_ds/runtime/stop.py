"""Notes that a scheduler, a launcher or a user has asked a rank to stop: SIGTERM or SIGUSR1."""

from __future__ import annotations

import signal
import threading
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""Schedulers send them before a time limit or a preemption, launchers send SIGTERM at their end."""


class StopWish:
    """Whether this rank has got a signal that asks it to stop. Called, it returns that."""

    def __init__(self) -> None:
        self._is_wanted = False

    def __call__(self) -> bool:
        """Return whether a stop is wanted."""
        return self._is_wanted

    def listen(self) -> None:
        """Handle the signals from now on, until the process ends: they are noted and nothing else.

        So a second signal does no harm, and the final save and export are not cut short. Only the
        main thread may set handlers; in another thread this does nothing.
        """
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Remember the wish. Python runs this in the main thread, between two instructions."""
        del number, frame
        self._is_wanted = True

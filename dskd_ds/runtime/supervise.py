"""Runs a launch to its end: passes signals on to its ranks, and leaves no process behind.

The launch is a session of its own. Signals go to its ranks, not to the launcher: the deepspeed
launcher (0.19.8) answers SIGTERM and SIGINT by ending one rank after the other, gives each 30 s,
and exits with 1 even if all of them saved. SIGUSR1 kills it, and its ranks go on without it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import psutil

from dskd_ds.errors import ExitCode
from dskd_ds.runtime.guarded import GuardedProcess

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
SIGNAL_CODE_BASE = 128
"""A shell's exit code of a process that a signal ended is this number plus the signal's."""
RANK_VARIABLES = ("RANK", "LOCAL_RANK")
GRACE_SECONDS = 30.0
"""How long processes that the launcher left behind may take to end, before they are killed."""
POLL_SECONDS = 0.05
FINAL_CODES = (ExitCode.DONE, ExitCode.WRONG_INPUT, ExitCode.NO_TEACHER)
"""Exit codes of a launch that would end in the same way if it was started again."""


@dataclass(frozen=True)
class LaunchEnd:
    """How a launch ended."""

    code: int
    """The launcher's exit code; 128 plus the signal's number if a signal ended the launcher."""
    stopped_by: signal.Signals | None
    """The first signal that this process received and passed on."""

    @property
    def is_worth_a_restart(self) -> bool:
        """Whether the launch saved or crashed, and nobody asked for its end."""
        return self.stopped_by is None and self.code not in FINAL_CODES

    def reason(self) -> str:
        """Return why the launch ended, for a message."""
        if self.code == ExitCode.REQUEUE:
            return "the run was saved and asked for a restart (exit code 3)"
        # The deepspeed launcher exits with minus the number of the signal that ended a rank.
        number = 256 - self.code if self.code > 192 else self.code - SIGNAL_CODE_BASE
        try:
            return f"{signal.Signals(number).name} ended it (exit code {self.code})"
        except ValueError:
            return f"it failed (exit code {self.code})"


def supervise(
    command: list[str], env: Mapping[str, str], num_signalled: int | None = None
) -> LaunchEnd:
    """Run a launch to its end and return how it ended. Call it in the main thread.

    SIGTERM and SIGUSR1 are passed on unchanged, SIGINT as SIGTERM: an interrupted rank would print
    a traceback. A second SIGINT kills the launch at once.

    num_signalled: ranks with a RANK below it receive the signals. None sends them to the launcher,
        which is right for mpirun.
    """
    session = _Session(command, env, num_signalled)
    with _handle_signals(session):
        session.start()
        code = session.wait()
    return LaunchEnd(code, session.stopped_by)


class _Session:
    """A launcher and all processes that it has started."""

    def __init__(
        self, command: list[str], env: Mapping[str, str], num_signalled: int | None
    ) -> None:
        self.stopped_by: signal.Signals | None = None
        self._command, self._num_signalled = command, num_signalled
        # Only ranks may have these (see _ranks_below); their launcher sets them.
        self._env = {name: value for name, value in env.items() if name not in RANK_VARIABLES}
        self._launcher: GuardedProcess | None = None
        self._num_interrupts = 0

    def start(self) -> None:
        """Start the launcher, unless a signal came first."""
        if self.stopped_by is not None:
            return
        self._launcher = GuardedProcess(self._command, self._env)
        # A signal that came while the launcher was being started found no process.
        if self.stopped_by is not None:
            self._send(self.stopped_by)

    def wait(self) -> int:
        """Wait for the launcher's end, then end what it left behind; returns its exit code."""
        if self._launcher is None:
            assert self.stopped_by is not None
            return SIGNAL_CODE_BASE + self.stopped_by
        code = self._launcher.wait()
        self._end_leftovers()
        return code if code >= 0 else SIGNAL_CODE_BASE - code

    def pass_on(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal that this process received."""
        received = signal.Signals(number)
        self.stopped_by = self.stopped_by or received
        self._num_interrupts += received == signal.SIGINT
        if self._num_interrupts > 1:
            _signal_all(self._processes(), signal.SIGKILL)
        else:
            self._send(received)

    def _send(self, received: signal.Signals) -> None:
        """Send a signal to those ranks of the launch that are to receive it."""
        forwarded = signal.SIGTERM if received == signal.SIGINT else received
        processes = self._processes()
        if self._num_signalled is None:
            targets = [process for process in processes if process.pid == self._pid]
        else:
            targets = _ranks_below(self._num_signalled, processes)
        if targets:
            _signal_all(targets, forwarded)
        else:
            # No rank has started, so there is nothing to save.
            _signal_all(processes, signal.SIGTERM)

    @property
    def _pid(self) -> int | None:
        return self._launcher.process.pid if self._launcher else None

    def _processes(self) -> list[psutil.Process]:
        """Return the living processes of the session."""
        found = []
        for process in psutil.process_iter():
            try:
                is_ours = os.getsid(process.pid) == self._pid
                # In a container nobody may collect the exit code of an orphan: it stays a zombie.
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (ProcessLookupError, PermissionError, psutil.Error):
                continue  # it has just ended, or it is another user's
        return found

    def _end_leftovers(self) -> None:
        """Ask the processes that outlived the launcher to end, and kill those that do not."""
        _signal_all(self._processes(), signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while (leftovers := self._processes()) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        _signal_all(leftovers, signal.SIGKILL)


def _ranks_below(num_ranks: int, processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return the ranks whose number is less than num_ranks, without the processes they started."""
    rank_of: dict[int, str] = {}
    for process in processes:
        try:
            env = process.environ()
        except psutil.Error:
            continue  # it has just ended
        # Set for a rank by torch's launchers, and inherited by its children.
        if all(name in env for name in RANK_VARIABLES):
            rank_of[process.pid] = env["RANK"]
    ranks = []
    for process in processes:
        is_rank = process.pid in rank_of and _parent_id(process) not in rank_of
        if is_rank and int(rank_of[process.pid]) < num_ranks:
            ranks.append(process)
    return ranks


def _parent_id(process: psutil.Process) -> int | None:
    try:
        return int(process.ppid())
    except psutil.Error:
        return None


def _signal_all(processes: list[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to processes; one that has ended by now is left out."""
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.Error:
            continue


@contextmanager
def _handle_signals(session: _Session) -> Iterator[None]:
    """Pass signals on to the session during the block."""
    before = {number: signal.signal(number, session.pass_on) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

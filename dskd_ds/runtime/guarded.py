"""Processes that do not outlive the one that started them, not even if that one is killed.

SIGKILL, for example when memory runs out, leaves no time to end a child. A second process, the
guard, does it. The command itself starts only when its guard is there, so that no moment is left
in which a kill leaves the command alone.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from typing import IO

START_WHEN_GUARDED = 'read -r _ && exec "$@" </dev/null'
"""Shell script that becomes a command after a line came, and ends if none can come any more."""
GUARD = 'read -r _ || kill -s TERM -- "-$1"'
"""Shell script that ends a process group when the writer of its standard input ends."""


class GuardedProcess:
    """A command in a session of its own, which gets SIGTERM when this process has ended."""

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        output: IO[bytes] | None = None,
    ) -> None:
        """Start the command.

        output: a file for standard output and standard error; None for this process's.
        """
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", START_WHEN_GUARDED, "start", *command],
            env=env,
            # It is a pipe only until the command starts: another session than the terminal's
            # cannot read from it.
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            start_new_session=True,
        )
        self._guard = _start_guard(self.process.pid)
        _write_line(self.process)

    def wait(self) -> int:
        """Wait for the end of the command and return its exit code, and then end the guard."""
        try:
            return self.process.wait()
        finally:
            self._guard.kill()
            self._guard.communicate()


def _start_guard(group: int) -> subprocess.Popen[bytes]:
    """Start the guard of a process group; its number is the process id of its first process."""
    return subprocess.Popen(
        ["/bin/sh", "-c", GUARD, "guard", str(group)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def _write_line(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(b"\n")
        process.stdin.close()
    except BrokenPipeError:
        return  # a signal has ended it

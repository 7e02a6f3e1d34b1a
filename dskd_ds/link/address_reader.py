"""Reads the students' addresses in a thread of its own.

They are files on a shared file system, which may stall or fail for a while. The link's thread must
go on sending heartbeats meanwhile, so it only takes the last addresses that were read.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from dskd_ds.link import keys


class AddressReader:
    """Reads the published addresses again and again until it is closed."""

    def __init__(self, run_dir: Path, interval_seconds: float) -> None:
        self._run_dir, self._interval_seconds = run_dir, interval_seconds
        self._addresses: dict[int, str] = {}
        self._failure = ""
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="read addresses", daemon=True).start()

    def current(self) -> dict[int, str]:
        """Return the addresses as they were last read, by student rank."""
        return self._addresses

    def close(self) -> None:
        """Stop reading. Does not wait for a read that is stuck."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._addresses = keys.read_addresses(self._run_dir)
                self._failure = ""
            except OSError as error:
                self._report(str(error))
            self._closed.wait(self._interval_seconds)

    def _report(self, failure: str) -> None:
        """Print a failure once; the last addresses stay in use."""
        if failure != self._failure:
            self._failure = failure
            print(
                f"{self._run_dir}: reading addresses failed, still trying: {failure}",
                file=sys.stderr,
            )

"""Reports about messages that cannot be used, on stderr and not without end."""

from __future__ import annotations

import sys

MAX_REPORTS = 100
"""Reports that one process prints; a peer could otherwise fill the disk with the log."""


class Reports:
    """Prints the first reports of one end of the link, and drops the later ones."""

    def __init__(self, name: str) -> None:
        """name: of the student or teacher that reports."""
        self._name = name
        self._num_reports = 0

    def add(self, text: str) -> None:
        """Print a report, unless there were too many."""
        self._num_reports += 1
        if self._num_reports <= MAX_REPORTS:
            print(f"{self._name}: {text}", file=sys.stderr)
        if self._num_reports == MAX_REPORTS:
            print(f"{self._name}: no more such messages are reported.", file=sys.stderr)

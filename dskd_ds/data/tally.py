"""Counts of what was left out or cut while data was prepared, said in one line a source."""

from __future__ import annotations

import sys
from collections import Counter


class Tally:
    """Counts by reason. It only sees work that is really done: what comes from a cache was told when it was made."""

    def __init__(self, source: str, live: bool = False) -> None:
        """live: say each reason when it first comes up (a stream has no end to wait for)."""
        self._source, self._live = source, live
        self.counts: Counter[str] = Counter()

    def add(self, reason: str) -> None:
        """Count one."""
        self.counts[reason] += 1
        if self._live and self.counts[reason] == 1:
            print(f"{self._source}: a conversation {reason}", file=sys.stderr)

    def say(self) -> None:
        """One line with all counts, if there are any."""
        if self.counts and not self._live:
            told = "; ".join(f"{number} {reason}" for reason, number in self.counts.most_common())
            print(f"{self._source}: of the conversations, {told}", file=sys.stderr)

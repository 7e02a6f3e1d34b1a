"""Counts what is left out or cut while data is prepared, and prints one line per source."""

from __future__ import annotations

import sys
from collections import Counter


class Tally:
    """Counts by reason. Rows that come from a cache were counted and reported when it was made."""

    def __init__(self, source: str, live: bool = False) -> None:
        """live: print each reason when it first occurs (a stream may have no end)."""
        self._source, self._live = source, live
        self.counts: Counter[str] = Counter()

    def add(self, reason: str) -> None:
        """Count one conversation under this reason."""
        self.counts[reason] += 1
        if self._live and self.counts[reason] == 1:
            print(f"{self._source}: a conversation {reason}", file=sys.stderr)

    def print_counts(self) -> None:
        """Print one line with all counts to stderr, if there are any."""
        if self.counts and not self._live:
            counts = "; ".join(f"{count} {reason}" for reason, count in self.counts.most_common())
            print(f"{self._source}: of the conversations, {counts}", file=sys.stderr)

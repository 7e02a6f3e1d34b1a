"""What a ledger remembers of a request that has no answer: which teachers could not give one."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

from dskd_ds.link.decisions import Failed

MOST_ENDED = 3
"""A request that so many teachers computed when they broke down is not sent again: it may be the
cause."""


@dataclass
class OpenJob:
    """A request without an answer."""

    num_bytes: int
    """Of the request and, at most, of its reply."""
    refusals: dict[str, str] = field(default_factory=dict)
    """Name of a teacher -> why it refused this request."""
    ended: list[str] = field(default_factory=list)
    """Name and reason of each teacher that broke down while it computed this request."""

    def failure(self, job_id: int, present: Set[str]) -> Failed | None:
        """Return why this request, which waits, gets no answer; None if a teacher may answer it.

        present: names of the teachers that are there. Without any, one may still come.
        """
        if len(self.ended) >= MOST_ENDED:
            return Failed(job_id, tuple(self.ended), has_ended_teachers=True)
        if present and present <= self.refusals.keys():
            reasons = (f"teacher {name}: {text}" for name, text in self.refusals.items())
            return Failed(job_id, tuple(reasons))
        return None

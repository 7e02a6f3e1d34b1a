"""A teacher that is present, as the ledger knows it: its credits, and what is in flight with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Credits:
    """What a teacher may have in flight at any time."""

    num_requests: int
    num_bytes: int = 0
    """Of requests and their replies; 0 for any. A request that needs more goes alone."""


@dataclass
class Flight:
    """A request that is with a teacher."""

    num_bytes: int
    """Of the request and, at most, of its reply."""
    sent: float
    last_held: float
    """When the teacher last said that it holds the request; at first, when it was sent."""


@dataclass
class PresentTeacher:
    """A teacher that may get requests. All times are in seconds."""

    name: str
    credits: Credits
    last_seen: float
    last_progress: float
    last_named: float
    """When a heartbeat of it last came, which names the requests that it holds."""
    longest_silence: float = 0.0
    """Since its last answer."""
    turn: int = 0
    """Its place in the order of asking; a smaller one was asked longer ago."""
    num_done: int = 0
    """Requests of all students that it has finished, as its heartbeats say."""
    round_trip: float = 0.0
    """Mean time from a request to its answer, of which the last answer is half; 0 before any."""
    in_flight: dict[int, Flight] = field(default_factory=dict)
    """By request, in the order of sending."""
    refusals_in_a_row: int = 0

    @property
    def bytes_in_flight(self) -> int:
        """Bytes of all requests in flight and, at most, of their replies."""
        return sum(flight.num_bytes for flight in self.in_flight.values())

    def num_free(self, num_bytes: int) -> int:
        """Return how many more requests it may get, the next one of `num_bytes`; 0 if not that."""
        limit = self.credits.num_bytes
        has_room = not limit or self.bytes_in_flight + num_bytes <= limit
        if self.in_flight and not has_room:
            return 0
        return self.credits.num_requests - len(self.in_flight)

    def expected_seconds(self) -> float:
        """Estimate when it would answer one more request; 0 for a teacher that never answered."""
        return (len(self.in_flight) + 1) * self.round_trip

    def note_answer(self, job_id: int, now: float) -> None:
        """It has answered a request."""
        seconds = now - self.in_flight.pop(job_id).sent
        self.round_trip = (self.round_trip + seconds) / 2 if self.round_trip else seconds
        self.last_progress, self.refusals_in_a_row = now, 0
        self.longest_silence = 0.0

    def note_seen(self, now: float) -> None:
        """A message of it came."""
        self.longest_silence = max(self.longest_silence, now - self.last_seen)
        self.last_seen = now

    def take(self, job_id: int, num_bytes: int, now: float, turn: int = 0) -> None:
        """A request is sent to it. turn: its new place in the order of asking."""
        self.turn = turn
        if not self.in_flight:
            self.last_progress = max(self.last_progress, now)
        self.in_flight[job_id] = Flight(num_bytes, sent=now, last_held=now)

    def note_held(self, job_ids: Iterable[int], now: float) -> None:
        """Its heartbeat names the requests that it holds."""
        self.last_named = now
        for job_id in job_ids:
            if job_id in self.in_flight:
                self.in_flight[job_id].last_held = now

    def pop_lost(self, limit: float) -> list[int]:
        """Remove and return the requests that its heartbeats have not named for over `limit`.

        Time without a heartbeat does not count: the heartbeats may wait behind a long reply.
        """
        flights = self.in_flight.items()
        lost = [one for one, flight in flights if self.last_named - flight.last_held > limit]
        for job_id in lost:
            del self.in_flight[job_id]
        return lost

    def stuck_since(self) -> float:
        """Return since when it holds requests and has made no progress."""
        first = next(iter(self.in_flight.values()))
        return max(self.last_progress, first.sent)

    def forgive(self, gap: float) -> None:
        """Do not count a pause of this side."""
        self.last_seen += gap
        self.last_progress += gap
        self.last_named += gap
        for flight in self.in_flight.values():
            flight.sent += gap
            flight.last_held += gap

"""What the ledger decides; the student's side of the link carries it out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Send:
    """Send a request to a teacher."""

    teacher: bytes
    job_id: int


@dataclass(frozen=True)
class Failed:
    """Fail a request: every teacher has refused it."""

    job_id: int
    reasons: tuple[str, ...]
    """Teacher and text of each refusal."""


@dataclass(frozen=True)
class Removed:
    """A teacher gets no more requests; those that it held wait for another."""

    teacher: bytes
    name: str
    reason: str
    num_waiting: int
    """How many requests it held."""
    is_banned: bool
    """Whether it must not come back under this name."""


@dataclass(frozen=True)
class Lost:
    """A request or its reply got lost on the way; it waits again."""

    job_id: int
    name: str
    """Of the teacher that it was sent to."""


Event = Send | Failed | Removed | Lost

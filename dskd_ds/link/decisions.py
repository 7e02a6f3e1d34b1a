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
    """Fail a request: every teacher refused it, or several broke down while they computed it."""

    job_id: int
    reasons: tuple[str, ...]
    """Teacher and text of each refusal or breakdown."""
    has_ended_teachers: bool = False
    """Whether teachers broke down."""

    @property
    def text(self) -> str:
        """What to tell the user."""
        reasons = "; ".join(self.reasons)
        if not self.has_ended_teachers:
            return f"no teacher could answer a request: {reasons}"
        return (
            f"{len(self.reasons)} teachers broke down while they computed the same request, which"
            f" is not sent again: {reasons}.\n"
            "  if the reasons are alike, the request may be the cause: set a smaller [train]"
            " micro_batch_blocks or [data] block_tokens, or CUDA_LAUNCH_BLOCKING=1 for the teachers"
            " to see what fails. Otherwise have their machines checked, and start the run again."
        )


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

"""The verdict of all students on the next step: go on, save, or stop together.

Each rank prepares its input for the step. Then one all-reduce tells every rank what all ranks have
met. It happens before any rank computes the step, because a rank that leaves in the middle of a
step leaves the others waiting in the step's collectives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import deepspeed
import torch

from dskd_ds.errors import ExitCode, OtherRankError, RequeueError, exit_code_of
from dskd_ds.runtime.devices import local_device
from dskd_ds.student.counts import Counts
from dskd_ds.student.phases import WAITING
from dskd_ds.student.replies.feed import StepInput


class StepSource(Protocol):
    """Gives one rank's steps in their order; `Feed` does."""

    def counts(self) -> tuple[int, int]:
        """The supervised and sense positions of the next step on this rank."""
        ...

    def fingerprints(self) -> list[str | None]:
        """Return what the replies of each teacher of the run depend on; None if none came yet."""
        ...

    def next(self, is_stop_wanted: Callable[[], bool]) -> StepInput | None:
        """Wait for the next step's input. Returns None if a stop is wanted before it has come.

        Raises an error if it cannot come.
        """
        ...


@dataclass(frozen=True)
class Prepared:
    """What one rank has for the next step: its input, or the error that it met instead."""

    counts: tuple[int, int] = (0, 0)
    """Supervised and sense positions of this rank."""
    step_input: StepInput | None = None
    """None after an error, and if a stop was wanted before the input came."""
    error: Exception | None = None

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of the error; DONE without one."""
        return exit_code_of(self.error)


@dataclass(frozen=True)
class Verdict:
    """What all ranks do next; the same on all ranks."""

    counts: Counts
    exit_code: ExitCode
    """The highest exit code of a rank that met an error; DONE if none did."""
    is_stop_wanted: bool
    """Whether any rank wants to stop."""
    is_save_due: bool
    """Whether any rank says that a checkpoint is due after this step."""
    is_save_written: bool = False
    """Whether all ranks have written their part of a save in the background."""
    is_teacher_new: bool = False
    """Whether any rank has met a teacher that it had not met before."""

    @property
    def ends_run(self) -> bool:
        """Whether no rank computes the step."""
        return self.exit_code is not ExitCode.DONE or self.is_stop_wanted


def prepare(
    source: StepSource, is_stop_wanted: Callable[[], bool], enter_phase: Callable[[str], None]
) -> Prepared:
    """Wait for this rank's input of the next step. enter_phase: is told when the wait begins.

    An error of any class is returned instead of raised: this rank must still tell the others.
    """
    try:
        counts = source.counts()
        enter_phase(WAITING)
        return Prepared(counts, source.next(is_stop_wanted))
    except Exception as error:
        return Prepared(error=error)


def all_reduce_verdict(
    prepared: Prepared,
    *,
    is_stop_wanted: bool,
    is_save_due: bool,
    is_save_written: bool = False,
    is_teacher_new: bool = False,
) -> Verdict:
    """Add up what all ranks have met, and return the verdict. A collective call."""
    # One number per exit code: how many ranks end with it. So everything can be summed at once.
    failures = [int(prepared.exit_code is code) for code in ExitCode]
    is_unwritten = not is_save_written
    flags = [int(is_stop_wanted), int(is_save_due), int(is_unwritten), int(is_teacher_new)]
    local = [*prepared.counts, *flags, *failures]
    total = torch.tensor(local, dtype=torch.int64, device=local_device())
    deepspeed.comm.all_reduce(total)
    num_tokens, num_senses, *sums = total.tolist()
    num_stops, num_saves, num_unwritten, num_new, *num_failures = sums
    met = [code for code, count in zip(ExitCode, num_failures, strict=True) if count]
    return Verdict(
        counts=Counts(num_tokens, num_senses),
        exit_code=max(met),
        is_stop_wanted=num_stops > 0,
        is_save_due=num_saves > 0,
        is_save_written=num_unwritten == 0,
        is_teacher_new=num_new > 0,
    )


def raise_end(prepared: Prepared, verdict: Verdict, rank: int) -> None:
    """Raise on every rank, if the verdict ends the run: an error comes before a wish to stop.

    Raises this rank's own error, or OtherRankError with the exit code of another rank's error. If
    no rank met one, rank 0 raises RequeueError, and the others OtherRankError.
    """
    if prepared.error:
        raise prepared.error
    if verdict.exit_code is not ExitCode.DONE:
        raise OtherRankError(verdict.exit_code)
    if verdict.is_stop_wanted:
        if rank > 0:
            raise OtherRankError(ExitCode.REQUEUE)
        raise RequeueError("saved, as a signal asked this run to stop; start it again to go on.")

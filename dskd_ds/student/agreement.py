"""Agrees over all students on a step's counts and input, before any of them computes the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import deepspeed
import torch

from dskd_ds.errors import DskdError, ExitCode, OtherRankError
from dskd_ds.runtime.devices import local_device
from dskd_ds.student.feed import StepInput


class StepSource(Protocol):
    """Gives one rank's steps in their order; `Feed` does."""

    def counts(self) -> tuple[int, int]:
        """The supervised and sense positions of the next step on this rank."""
        ...

    def next(self) -> StepInput:
        """Wait for the next step's input. Raises DskdError if it cannot come."""
        ...


@dataclass(frozen=True)
class Counts:
    """What a step's sums are divided by: positions over all ranks and accumulation steps."""

    tokens: int
    """Supervised positions."""
    senses: int
    """Positions with the sense term."""


def all_reduce_counts(source: StepSource) -> Counts:
    """Add up the positions of the next step over all ranks. A collective call."""
    counts = torch.tensor(source.counts(), dtype=torch.int64, device=local_device())
    deepspeed.comm.all_reduce(counts)
    return Counts(*counts.tolist())


def next_input_on_every_rank(source: StepSource) -> StepInput:
    """Return the next step's input on all ranks, or raise DskdError on all of them. A collective
    call.

    A rank whose teacher is lost must not leave the others waiting in the step's collectives.
    """
    failure: DskdError | None = None
    step_input: StepInput | None = None
    try:
        step_input = source.next()
    except DskdError as error:
        failure = error
    # The ranks agree on the exit code: a rank without an error of its own ends with the same one.
    code = torch.tensor([int(failure.exit_code) if failure else 0], device=local_device())
    deepspeed.comm.all_reduce(code, op=deepspeed.comm.ReduceOp.MAX)
    if failure:
        raise failure
    if int(code):
        raise OtherRankError(ExitCode(int(code)))
    assert step_input is not None
    return step_input

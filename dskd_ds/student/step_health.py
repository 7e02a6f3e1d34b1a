"""Times and memory of a step on every rank: how long it took, who waited, who was slow."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import deepspeed
import torch

from dskd_ds.observe.memory import MemoryBefore, peak_device_bytes, peak_host_bytes
from dskd_ds.observe.stragglers import Stragglers
from dskd_ds.runtime.collective_clock import CollectiveClock
from dskd_ds.runtime.devices import local_device
from dskd_ds.student.replies.feed import StepInput


@dataclass(frozen=True)
class RankStep:
    """One rank's times (in seconds) and memory (in bytes) in one step."""

    seconds: float
    """The whole step."""
    teacher_wait: float
    sense_wait: float
    collectives: float
    """Time inside of collectives."""
    host_bytes: float
    """The largest memory of the process so far."""
    device_bytes: float
    """The largest memory of its GPU since it began to make its engine; 0 without a GPU."""
    engine_bytes: float = 0
    """What student, optimiser and steps take of `device_bytes`; without a GPU, of `host_bytes`: the
    memory beyond what the process had before it made the engine. 0 if it had more before."""


class StepHealth:
    """Measures the steps of this rank and compares those of all ranks."""

    def __init__(
        self, clock: CollectiveClock | None = None, before: MemoryBefore | None = None
    ) -> None:
        """Make the measurement of a rank's steps.

        clock: one that is installed; without it, waits in collectives count as computation.
        before: the memory of the process before it made the engine.
        """
        self._before = before or MemoryBefore()
        self.stragglers = Stragglers()
        self._clock = clock or CollectiveClock()
        self._started = time.monotonic()

    def begin_step(self) -> None:
        """Note that this rank begins to wait for a step's input."""
        self._clock.take_seconds()
        self._started = time.monotonic()

    def end_step(self, step_input: StepInput) -> RankStep:
        """Return what the step took on this rank. Call it when the weights are updated."""
        seconds = time.monotonic() - self._started
        host_bytes, device_bytes = peak_host_bytes(), peak_device_bytes()
        return RankStep(
            seconds=seconds,
            teacher_wait=step_input.teacher_wait_seconds,
            sense_wait=step_input.sense_wait_seconds,
            collectives=self._clock.take_seconds(),
            host_bytes=host_bytes,
            device_bytes=device_bytes,
            engine_bytes=device_bytes or self._before.added(host_bytes),
        )

    def all_gather_record(self, own: RankStep) -> dict[str, float]:
        """Return the part of the step's record about times and memory. A collective call."""
        ranks = all_gather_steps(own)
        # A step takes as long as its slowest rank, so of each time the longest is recorded.
        seconds = max(rank.seconds for rank in ranks)
        teacher_wait = max(rank.teacher_wait for rank in ranks)
        self.stragglers.add(compute_seconds(ranks, self._clock.is_overlapping))
        slowest = self.stragglers.slowest()
        return {
            "step_seconds": seconds,
            "teacher_wait_seconds": teacher_wait,
            "sense_wait_seconds": max(rank.sense_wait for rank in ranks),
            "teacher_wait_share": teacher_wait / seconds,
            "slowest_rank": slowest.rank,
            "slowest_factor": slowest.factor,
            "rss_bytes": max(rank.host_bytes for rank in ranks),
            "device_bytes": max(rank.device_bytes for rank in ranks),
            "engine_bytes": max(rank.engine_bytes for rank in ranks),
        }


def all_gather_steps(own: RankStep) -> list[RankStep]:
    """Return the steps of all ranks, by rank. A collective call."""
    num_ranks, rank = deepspeed.comm.get_world_size(), deepspeed.comm.get_rank()
    values = torch.tensor(astuple(own), dtype=torch.float64)
    # Each rank adds its row to zeros: a sum is a gather that needs one tensor only.
    table = torch.zeros(num_ranks, len(values), dtype=torch.float64, device=local_device())
    table[rank] = values
    deepspeed.comm.all_reduce(table)
    return [RankStep(*row) for row in table.tolist()]


def compute_seconds(ranks: Sequence[RankStep], is_overlapping: bool) -> list[float]:
    """Return how long each rank itself computed in the step.

    is_overlapping: whether collectives run beside computation. Then only the time counts as waiting
    by which a rank's collectives exceed those of the rank that waits least.
    """
    least = min(rank.collectives for rank in ranks) if is_overlapping else 0.0
    own = []
    for rank in ranks:
        waits = rank.teacher_wait + rank.sense_wait + (rank.collectives - least)
        own.append(max(rank.seconds - waits, 0.0))
    return own

"""Prefetches micro-batches together with the teacher's signal and the senses.

Requests for the next `prefetch_depth` steps, with all their micro-batches, are sent while a step
computes. A background thread decodes replies, looks up senses and copies everything to the device.
The training thread waits only for what is not ready yet, and reports how long it waited. The memory
is bounded: replies of `prefetch_depth + 1` steps of this rank, and the senses at their positions,
in the dictionary's format until a loss uses them (costs/traffic.py counts the bytes).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from dskd_ds.data.batches import Batch, BlockSource, Sample, places, read_batch
from dskd_ds.errors import DskdError
from dskd_ds.link import Answer, StudentSide
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.runtime.devices import local_device, pinned
from dskd_ds.spec import RunSpec
from dskd_ds.student.collectives import all_reduce_error
from dskd_ds.student.on_policy import is_on_policy
from dskd_ds.student.replies.alignment import AlignmentTest
from dskd_ds.student.replies.requests import StepRequests, TeacherRequest
from dskd_ds.student.replies.routes import Route, RoutedRows, Routes, join_targets

STOP_POLL_SECONDS = 0.2
"""How often a wait for a teacher looks whether this rank was asked to stop."""


@dataclass(frozen=True)
class MicroBatch:
    """Everything that one forward pass of the student needs, on its device."""

    input_ids: Tensor
    position_ids: Tensor
    teacher: TeacherTargets
    senses: SenseTargets
    place: int = 0
    """Place of its first block in the global order of blocks, which seeds the dropout."""
    num_padding: int = 0
    """Positions that only fill rows up to the longest."""

    def to(self, device: torch.device) -> MicroBatch:
        """Return a copy on a device; the copies to an accelerator are asynchronous."""
        return replace(
            self,
            input_ids=pinned(self.input_ids).to(device, non_blocking=True),
            position_ids=pinned(self.position_ids).to(device, non_blocking=True),
            teacher=pinned(self.teacher).to(device),
            senses=pinned(self.senses).to(device),
        )


@dataclass(frozen=True)
class StepInput:
    """The micro-batches of one optimiser step of this rank, and the time spent waiting for them."""

    micro_batches: list[MicroBatch]
    teacher_wait_seconds: float
    sense_wait_seconds: float
    link_bytes: int
    cache_asked: int = 0
    """Positions that were looked up in a cache of teacher signal; 0 without one."""
    cache_kept: int = 0
    """Those of them that the cache had."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens that are read, without the padding of unpacked rows."""
        return sum(batch.input_ids.numel() - batch.num_padding for batch in self.micro_batches)


@dataclass(frozen=True)
class _Asked:
    """A request that has been sent."""

    routed: RoutedRows
    request: TeacherRequest
    answer: Future[Answer]


@dataclass(frozen=True)
class _Planned:
    """A micro-batch whose requests have been sent."""

    asked: list[_Asked]
    """One per teacher that has rows of it."""
    num_rows: int
    ready: Future[MicroBatch]


class Feed:
    """The inputs of one rank's steps, in order."""

    def __init__(
        self,
        spec: RunSpec,
        *,
        rank: int,
        source: BlockSource,
        link: StudentSide,
        link_for_own_text: StudentSide | None = None,
        requests: StepRequests,
        self_test: AlignmentTest | None,
        device: torch.device,
        steps: range,
        further: Sequence[Route] = (),
        route_of: Callable[[Sample], int] | None = None,
    ) -> None:
        """Start preparing. steps: the optimiser steps of the run that are left, counted from 0.

        link_for_own_text: asked for text that the student wrote; None: `link` is.
        further: [[teachers]]. route_of: the teacher of a sample; 0 is [teacher].
        """
        self._spec, self._rank, self._source = spec, rank, source
        own = Route(link, link_for_own_text or link, requests, self_test)
        self._routes = Routes([own, *further], route_of)
        self._device = device
        # The thread chooses its device when it starts, because torch keeps that choice per thread.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prepare", initializer=local_device)
        self._planned: deque[list[_Planned]] = deque()
        self._next_step, self._last_step = steps.start, steps.stop
        self._failure: DskdError | None = None
        has_other_ranks = spec.topology.num_students > 1
        self._plans_together = has_other_ranks and spec.train.on_policy_fraction > 0

    def fingerprints(self) -> list[str | None]:
        """Return what the replies of each teacher of the run depend on; None if none came yet."""
        return [route.link.fingerprint for route in self._routes.routes]

    def counts(self) -> tuple[int, int]:
        """Return what the sums of this rank's next step are divided by; (0, 0) if `next` will
        raise.

        These are its supervised positions and its sense positions, or with [loss] normalise =
        "sequence" its rows, twice: a row without sense positions counts as well. They are known
        before any reply has come. Raises what goes wrong while a step is planned, but a DskdError
        only when the steps before it are used up: the text may end there.
        """
        self._plan_ahead()
        step = self._planned[0] if self._planned else []
        if self._spec.loss.normalise == "sequence":
            num_rows = sum(planned.num_rows for planned in step)
            return num_rows, num_rows
        requests = [asked.request for planned in step for asked in planned.asked]
        num_supervised = sum(len(request.batch.supervised) for request in requests)
        num_sense = sum(len(request.selection) for request in requests if request.selection)
        return num_supervised, num_sense

    def next(self, is_stop_wanted: Callable[[], bool] = lambda: False) -> StepInput | None:
        """Wait for the next step's input. Returns None if a stop is wanted before the replies came.

        Raises NoTeacherError, LinkError or InputError, or what preparing the input has raised.
        """
        self._plan_ahead()
        if self._failure and not self._planned:
            raise self._failure
        step = self._planned[0]
        # First all replies, then all that is made of them: the two waits are metrics of their own.
        started = time.monotonic()
        pending = [asked.answer for planned in step for asked in planned.asked]
        for one in pending:
            while not one.done():
                # The teachers of the launch may have got the signal too: then no reply will come.
                if is_stop_wanted():
                    return None
                wait([one], timeout=STOP_POLL_SECONDS)
        answers = [one.result() for one in pending]
        answered = time.monotonic()
        micro_batches = [planned.ready.result() for planned in step]
        done = time.monotonic()
        self._planned.popleft()
        return StepInput(
            micro_batches=micro_batches,
            teacher_wait_seconds=answered - started,
            sense_wait_seconds=done - answered,
            link_bytes=sum(answer.link_bytes for answer in answers),
            cache_asked=sum(answer.num_asked for answer in answers),
            cache_kept=sum(answer.num_kept for answer in answers),
        )

    def finish(self) -> None:
        """Stop preparing after the last step, and leave the link open for another feed."""
        self._pool.shutdown(wait=True)

    def close(self) -> None:
        """Stop preparing, and close the links."""
        self._routes.close()  # first, because it ends the thread's wait for replies
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _plan_ahead(self) -> None:
        """Send the requests of the current step and of `prefetch_depth` more."""
        while len(self._planned) <= self._spec.link.prefetch_depth:
            if self._next_step == self._last_step or self._failure:
                return
            planned: list[_Planned] = []
            error: Exception | None = None
            try:
                for micro in range(self._spec.num_accumulation_steps):
                    planned.append(self._plan(micro))
            except Exception as met:
                error = met
            if self._plans_together:
                # The student writes the text of some steps, which is a collective call. So all
                # ranks stop planning at the same step.
                error = all_reduce_error(error)
            if error is None:
                self._planned.append(planned)
            elif isinstance(error, DskdError):  # the steps before it are still trained
                self._failure = error
            else:
                raise error
            self._next_step += 1

    def _plan(self, micro: int) -> _Planned:
        """Read the blocks of one micro-batch of the next step, and send its requests."""
        block_indices = places(self._spec, self._next_step, micro, self._rank)
        batch = read_batch(self._source, block_indices)
        student_wrote = is_on_policy(self._spec.train.on_policy_fraction, self._next_step)
        asked = [self._ask(routed, student_wrote) for routed in self._routes.split(batch)]
        ready = self._pool.submit(self._prepare, self._next_step, block_indices.start, batch, asked)
        return _Planned(asked, len(batch.samples), ready)

    def _ask(self, routed: RoutedRows, student_wrote: bool) -> _Asked:
        """Send the request for some rows of a micro-batch to their teacher."""
        route, requests = routed.route, routed.route.requests
        request = requests.request(routed.batch)
        # The link's thread reads the reply once more than needed (2 ms for 2,048 positions), so
        # that a teacher with NaN in its replies is found while another one can still be asked.
        link = route.link_for_own_text if student_wrote else route.link
        answer = link.submit(
            request.arrays,
            request.wanted,
            reply_bytes=requests.most_reply_bytes(request),
            check=partial(requests.parts, request),
        )
        return _Asked(routed, request, answer)

    def _prepare(self, step: int, place: int, batch: Batch, asked: Sequence[_Asked]) -> MicroBatch:
        """Turn replies into tensors on the device. Runs in the background thread."""
        found = [(one.routed, *self._read(step, one)) for one in asked]
        teacher, senses = join_targets(found)
        on_cpu = MicroBatch(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            teacher=teacher,
            senses=senses,
            place=place,
            num_padding=batch.num_padding,
        )
        return on_cpu.to(self._device)

    def _read(self, step: int, asked: _Asked) -> tuple[TeacherTargets, SenseTargets]:
        """Wait for a reply, and return what is learned from it, on the CPU."""
        route, request = asked.routed.route, asked.request
        answer = asked.answer.result()
        reply = route.requests.read(request, answer)
        if route.self_test:
            route.self_test.run_once(step, request, reply, answer.teacher)
        return route.requests.targets(request, reply)

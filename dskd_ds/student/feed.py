"""What the training loop eats: batches with the teacher's word and the senses, prepared ahead of use.

Requests for the next `prefetch_depth` steps, with all their micro-batches, leave while a step computes. Replies are decoded, candidates
looked up and everything copied to the device in a thread beside; the training thread only waits for what is not ready yet, and reports
how long it did. What waits in memory is bounded: replies of `prefetch_depth + 1` steps of this rank, and the senses at their positions, in
the dictionary's format until a loss works on them (link/traffic.py says the bytes).
"""

from __future__ import annotations

import sys
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from dskd_ds.data.batches import Batch, BlockSource, places, read_batch
from dskd_ds.errors import DskdError, LinkError
from dskd_ds.link import Answer, StudentLink
from dskd_ds.link.messages import Array, Wanted
from dskd_ds.losses.objective import TeacherTargets
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.models.head import FrozenHead
from dskd_ds.runtime.devices import local_device, pinned
from dskd_ds.senses.choose.retrieve import Selection, SenseRetriever
from dskd_ds.signals.reply import Signal, read_signal
from dskd_ds.spec import RunSpec
from dskd_ds.spec.loss import SignalKind
from dskd_ds.student.alignment import measure_alignment
from dskd_ds.student.on_policy import is_on_policy

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class MicroBatch:
    """Everything one forward of the student needs, on its device."""

    input_ids: Tensor
    position_ids: Tensor
    teacher: TeacherTargets
    senses: SenseTargets


@dataclass(frozen=True)
class StepInput:
    """The micro-batches of one optimiser step of this rank, and what waiting for them took."""

    micro_batches: list[MicroBatch]
    teacher_wait_seconds: float
    sense_wait_seconds: float
    link_bytes: int


@dataclass
class _Planned:
    """A micro-batch on its way."""

    batch: Batch
    selection: Selection | None
    answer: Future[Answer]
    ready: Future[MicroBatch]


class Feed:
    """The steps of one rank, from `first_step` to `last_step` (exclusive)."""

    def __init__(
        self,
        spec: RunSpec,
        rank: int,
        source: BlockSource,
        link: StudentLink,
        retriever: SenseRetriever | None,
        sizes: tuple[int, int],
        device: torch.device,
        first_step: int,
        last_step: int,
        teacher_head: FrozenHead | None = None,
    ) -> None:
        """sizes: the teacher's vocabulary and hidden size. teacher_head: only for the self-test of signal `exact`."""
        self._spec, self._rank, self._source, self._link, self._retriever = (
            spec,
            rank,
            source,
            link,
            retriever,
        )
        self._sizes, self._device = sizes, device
        self._teacher_head, self._tested = teacher_head, False
        tau, signal = spec.loss.temperature, spec.loss.signal
        temperatures = (
            (1.0,) if tau == 1.0 or signal != "topk" else (tau, 1.0)
        )  # senses want temperature 1, which is the last
        self._wanted = Wanted(
            top_k=spec.loss.top_k,
            temperatures=temperatures,
            num_draws=spec.loss.num_draws,
            draw_temperature=tau,
            draw_seed=spec.seed,
            hidden_format=spec.link.hidden_format,
            senses=retriever.wanted if retriever and spec.senses.retrieve_on == "teacher" else None,
        )
        self._pool = ThreadPoolExecutor(
            1, thread_name_prefix="prepare", initializer=local_device
        )  # devices are chosen by thread
        self._steps: deque[list[_Planned]] = deque()
        self._next_step, self._last_step = first_step, last_step
        self._failure: DskdError | None = None

    def counts(self) -> tuple[int, int]:
        """Supervised and sense positions of the next step on this rank, known before any reply came; none if `next` will raise."""
        self._fill()
        planned = self._steps[0] if self._steps else []
        return (
            sum(len(p.batch.supervised) for p in planned),
            sum(len(p.selection) for p in planned if p.selection),
        )

    def next(self) -> StepInput:
        """Wait for the next step's input. Raises NoTeacherError, LinkError or InputError where it cannot come."""
        self._fill()
        if self._failure and not self._steps:
            raise self._failure
        planned = self._steps[0]
        started = time.monotonic()
        answers = [p.answer.result() for p in planned]
        answered = time.monotonic()
        micro_batches = [p.ready.result() for p in planned]
        done = time.monotonic()
        self._steps.popleft()
        return StepInput(
            micro_batches, answered - started, done - answered, sum(a.link_bytes for a in answers)
        )

    def close(self) -> None:
        """Stop preparing. Closes the link: whoever waits for a reply then stops waiting, and leaves the index alone."""
        self._link.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _fill(self) -> None:
        """Have the step in work and `prefetch_depth` more on their way."""
        while (
            len(self._steps) <= self._spec.link.prefetch_depth
            and self._next_step < self._last_step
            and not self._failure
        ):
            try:
                self._steps.append(
                    [self._plan(micro) for micro in range(self._spec.num_accumulation_steps)]
                )
            except DskdError as error:  # the text ends: the steps before it are still trained
                self._failure = error
            self._next_step += 1

    def _plan(self, micro: int) -> _Planned:
        batch = read_batch(self._source, places(self._spec, self._next_step, micro, self._rank))
        selection = self._retriever.select(batch) if self._retriever else None
        sense = selection.positions if selection else np.zeros(0, np.int64)
        wanted = self._wanted.model_copy(
            update={"draw_seed": self._spec.seed * 1_000_003 + batch.samples[0].epoch}
        )
        at = positions_asked(
            self._spec.loss.signal,
            batch.supervised.numpy(),
            sense if self._wanted.senses is None else sense[:0],
        )
        arrays: dict[str, Array] = {
            "input_ids": batch.input_ids.numpy().astype(np.int32),
            "position_ids": batch.position_ids.numpy().astype(np.int32),
            **{f"{name}_positions": positions.astype(np.int32) for name, positions in at.items()},
            **selection_arrays(batch if self._wanted.senses else None),
        }
        answer = self._link.submit(arrays, wanted)
        return _Planned(
            batch,
            selection,
            answer,
            self._pool.submit(self._prepare, self._next_step, batch, selection, at, answer),
        )

    def _prepare(
        self,
        step: int,
        batch: Batch,
        selection: Selection | None,
        at: dict[str, Ints],
        answer: Future[Answer],
    ) -> MicroBatch:
        """Runs in the pool's thread: reply -> tensors on the device."""
        reply = answer.result()
        try:
            signal = read_signal(
                reply.arrays,
                self._wanted,
                self._sizes,
                (len(at["top_k"]), len(at["draw"]), len(at["hidden"])),
                len(selection) if selection and self._wanted.senses else 0,
            )
        except ValueError as error:
            raise LinkError(
                f"teacher {reply.teacher} sent a reply that does not fit its request: {error}."
            ) from None
        if not self._tested:
            self._test_alignment(step, batch, at, signal, reply.teacher)
        teacher, senses = self._targets(batch, selection, signal)
        input_ids, position_ids = (
            pinned(ids).to(self._device, non_blocking=True)
            for ids in (batch.input_ids, batch.position_ids)
        )
        return MicroBatch(
            input_ids,
            position_ids,
            pinned(teacher).to(self._device),
            pinned(senses).to(self._device),
        )

    def _targets(
        self, batch: Batch, selection: Selection | None, signal: Signal
    ) -> tuple[TeacherTargets, SenseTargets]:
        mode, supervised = self._spec.loss.signal, batch.supervised
        senses = SenseTargets.empty(self._sizes[1])
        if selection is not None and self._retriever is not None:
            chosen = signal.chosen
            if self._wanted.senses is None:
                index = torch.searchsorted(supervised, torch.from_numpy(selection.positions))
                there = signal.top_k.rows(index) if mode == "topk" else signal.top_k
                hidden = signal.hidden[index] if mode == "exact" else signal.hidden
                chosen = self._retriever.choose(
                    selection, hidden, there, len(self._wanted.temperatures) - 1
                )
            senses = self._retriever.pack(selection, chosen)
        teacher = TeacherTargets(
            supervised,
            batch.targets.flatten()[supervised],
            signal.top_k if mode == "topk" else None,
            signal.hidden if mode == "exact" else None,
            signal.draws.sampled() if mode == "sampled" else None,
        )
        return teacher, senses

    def _test_alignment(
        self, step: int, batch: Batch, at: dict[str, Ints], signal: Signal, teacher: str
    ) -> None:
        """Once, on the first text that the student did not write: of a beginner's noise a teacher may know the wrong position better.

        Where the student writes all of it, it is told and not judged. Raises LinkError where the reply belongs to other positions.
        """
        fraction = self._spec.train.on_policy_fraction
        written = is_on_policy(fraction, step)
        if written and fraction < 1.0:
            return
        self._tested = True
        found = measure_alignment(
            batch.targets, at, signal, self._spec.loss.signal, self._sizes[0], self._teacher_head
        )
        if self._rank == 0:
            tqdm.write(
                found.line() + ("; not judged, for the student wrote this text" if written else ""),
                file=sys.stderr,
            )
        if not written:
            found.check(teacher)


def positions_asked(signal: SignalKind, supervised: Ints, sense: Ints) -> dict[str, Ints]:
    """Positions at which top k, draws and hidden states are asked for: the KL's part where there is a target, the rest for senses.

    sense: where the student picks candidates.
    """
    return {
        "top_k": supervised if signal == "topk" else sense,
        "draw": supervised if signal == "sampled" else supervised[:0],
        "hidden": supervised if signal == "exact" else sense,
    }


def selection_arrays(batch: Batch | None) -> dict[str, Array]:
    """What a teacher needs to draw the same sense positions as this side; None: it is not to."""
    if batch is None:
        return {"targets": np.zeros((0, 0), np.int32), "sample_keys": np.zeros((0, 2), np.int64)}
    return {
        "targets": batch.targets.numpy().astype(np.int32),
        "sample_keys": np.array(
            [[sample.epoch, sample.block] for sample in batch.samples], np.int64
        ),
    }

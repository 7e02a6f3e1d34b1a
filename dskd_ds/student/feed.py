"""What the training loop eats: batches with the teacher's word and the senses, prepared ahead of use.

Requests for the next `prefetch_depth` steps leave while a step computes. Replies are decoded, candidates looked up and everything
copied to the device in a thread beside; the training thread only waits for what is not ready yet, and reports how long it did.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dskd_ds.data.batches import Batch, BlockSource, places, read_batch
from dskd_ds.errors import LinkError
from dskd_ds.link import Answer, StudentLink
from dskd_ds.link.messages import Array
from dskd_ds.losses.objective import TeacherTargets
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.sense.retrieve import Selection, SenseRetriever
from dskd_ds.spec import RunSpec
from dskd_ds.teacher.signal import TopK, read_signal


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

    def __init__(self, spec: RunSpec, rank: int, source: BlockSource, link: StudentLink, retriever: SenseRetriever | None,
                 vocab_size: int, hidden_size: int, device: torch.device, first_step: int, last_step: int) -> None:
        self._spec, self._rank, self._source, self._link, self._retriever = spec, rank, source, link, retriever
        self._vocab_size, self._hidden_size, self._device = vocab_size, hidden_size, device
        tau = spec.loss.temperature
        self._temperatures = (tau,) if tau == 1.0 else (tau, 1.0)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._steps: deque[list[_Planned]] = deque()
        self._next_step, self._last_step = first_step, last_step

    def counts(self) -> tuple[int, int]:
        """Supervised positions and sense positions of the next step on this rank; known before any reply came."""
        self._fill()
        planned = self._steps[0]
        return (sum(len(p.batch.supervised) for p in planned), sum(len(p.selection) for p in planned if p.selection))

    def next(self) -> StepInput:
        """Wait for the next step's input. Raises NoTeacherError or LinkError where it cannot come."""
        self._fill()
        planned = self._steps[0]
        started = time.monotonic()
        answers = [p.answer.result() for p in planned]
        answered = time.monotonic()
        micro_batches = [p.ready.result() for p in planned]
        done = time.monotonic()
        self._steps.popleft()
        return StepInput(micro_batches, answered - started, done - answered, sum(a.link_bytes for a in answers))

    def close(self) -> None:
        """Stop preparing."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _fill(self) -> None:
        """Have the step in work and `prefetch_depth` more on their way."""
        while len(self._steps) <= self._spec.link.prefetch_depth and self._next_step < self._last_step:
            self._steps.append([self._plan(micro) for micro in range(self._spec.num_accumulation_steps)])
            self._next_step += 1

    def _plan(self, micro: int) -> _Planned:
        batch = read_batch(self._source, places(self._spec, self._next_step, micro, self._rank))
        selection = self._retriever.select(batch) if self._retriever else None
        sense_positions = selection.positions if selection else np.zeros(0, np.int64)
        supervised = batch.supervised.numpy()
        exact = self._spec.loss.signal == "exact"
        arrays: dict[str, Array] = {
            "input_ids": batch.input_ids.numpy().astype(np.int32),
            "position_ids": batch.position_ids.numpy().astype(np.int32),
            "logit_positions": (sense_positions if exact else supervised).astype(np.int32),
            "hidden_positions": (supervised if exact else sense_positions).astype(np.int32),
        }
        answer = self._link.submit(arrays, self._spec.loss.top_k, self._temperatures)
        return _Planned(batch, selection, answer, self._pool.submit(self._prepare, batch, selection, answer))

    def _prepare(self, batch: Batch, selection: Selection | None, answer: Future[Answer]) -> MicroBatch:
        """Runs in the pool's thread: reply -> tensors on the device."""
        reply = answer.result()
        supervised = batch.supervised
        try:
            top_k, hidden = read_signal(reply.arrays, self._vocab_size)
            self._check_shapes(top_k, hidden, len(supervised), len(selection) if selection else 0)
        except ValueError as error:
            raise LinkError(f"teacher {reply.teacher} sent a reply that does not fit its request: {error}.") from None
        exact = self._spec.loss.signal == "exact"
        senses = SenseTargets.empty(self._hidden_size)
        if selection is not None and self._retriever is not None:
            index = torch.searchsorted(supervised, torch.from_numpy(selection.positions))
            there = TopK(top_k.ids[index], top_k.logits[index], top_k.tail[index]) if not exact else top_k
            senses = self._retriever.targets(selection, hidden[index] if exact else hidden, there, len(self._temperatures) - 1)
        teacher = TeacherTargets(supervised, batch.targets.flatten()[supervised], None if exact else top_k, hidden if exact else None)
        return MicroBatch(batch.input_ids.to(self._device), batch.position_ids.to(self._device),
                          teacher.to(self._device), senses.to(self._device))

    def _check_shapes(self, top_k: TopK, hidden: Tensor, num_supervised: int, num_sense: int) -> None:
        exact = self._spec.loss.signal == "exact"
        logit_rows, hidden_rows = (num_sense, num_supervised) if exact else (num_supervised, num_sense)
        expected = {"topk_ids": (top_k.ids, (logit_rows, min(self._spec.loss.top_k, self._vocab_size))),
                    "topk_logits": (top_k.logits, top_k.ids.shape), "tail": (top_k.tail, (logit_rows, len(self._temperatures))),
                    "hidden": (hidden, (hidden_rows, self._hidden_size))}
        for name, (tensor, shape) in expected.items():
            if tuple(tensor.shape) != tuple(shape):
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")

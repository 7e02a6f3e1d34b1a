"""Blocks -> the batches of each rank, in a global order that does not depend on how many ranks there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from dskd_ds.data.blocks import position_ids, train_blocks
from dskd_ds.errors import DskdError, InputError
from dskd_ds.runtime.seeds import epoch_seed
from dskd_ds.spec import RunSpec

IGNORE = -100
"""Target of a position that is not supervised."""


@dataclass(frozen=True)
class Sample:
    """A block's place in the run: what every draw for it is keyed with."""

    epoch: int
    block: int


@dataclass(frozen=True)
class Batch:
    """Some blocks, ready for a forward pass."""

    samples: tuple[Sample, ...]
    input_ids: Tensor
    """[B, T] int64"""
    position_ids: Tensor
    """[B, T] int64, restarting at 0 with each document."""
    targets: Tensor
    """[B, T] int64: the next token of the same document; IGNORE where there is none, or it is not to be learned (a chat's prompt)."""

    @property
    def supervised(self) -> Tensor:
        """[N] positions with a target, through the flattened B * T, ascending."""
        return (self.targets.flatten() != IGNORE).nonzero().squeeze(1)


def make_batch(rows: Sequence[dict[str, Any]], samples: Sequence[Sample]) -> Batch:
    """Rows of packed blocks -> a batch."""
    input_ids = torch.tensor([row["input_ids"] for row in rows])
    positions = torch.tensor(
        [position_ids(row["segment_starts"], input_ids.shape[1]) for row in rows]
    )
    targets = torch.full_like(input_ids, IGNORE)
    is_target = positions > 0  # a document's first token follows from nothing
    for number, row in enumerate(rows):
        for start, end in row.get("unsupervised", ()):
            is_target[number, start:end] = False
    targets[:, :-1] = torch.where(is_target[:, 1:], input_ids[:, 1:], IGNORE)
    return Batch(tuple(samples), input_ids, positions, targets)


class BlockSource(Protocol):
    """Blocks by their place in the global order."""

    def get(self, place: int) -> tuple[Sample, dict[str, Any]]:
        """The `place`-th block that the run trains on."""
        ...


class MappedBlocks:
    """All blocks at hand: a new permutation each epoch, keyed by (seed, epoch)."""

    def __init__(self, blocks: Any, seed: int) -> None:
        self.blocks, self.seed = blocks, seed
        self._permutation = lru_cache(maxsize=2)(self._make_permutation)

    def __len__(self) -> int:
        return len(self.blocks)

    def get(self, place: int) -> tuple[Sample, dict[str, Any]]:
        """See BlockSource."""
        epoch, index = divmod(place, len(self.blocks))
        block = int(self._permutation(epoch)[index])
        return Sample(epoch, block), self.blocks[block]

    def _make_permutation(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch))
        return torch.randperm(len(self.blocks), generator=generator)


class StreamedBlocks:
    """Blocks in the order of the stream; every rank reads along and uses its own. Places must ascend.

    A step's blocks are read together, so that the end of the text comes at the same step on every rank, before any has begun with it:
    what ranks do together in a step (text that the student writes) would otherwise wait for a rank that does not come. They are read,
    tokenised and packed by a thread, a step ahead of use.
    """

    def __init__(self, blocks: Any, step_blocks: int) -> None:
        """step_blocks: of one optimiser step, over all ranks."""
        self._rows: Iterator[dict[str, Any]] = iter(blocks)
        self._step_blocks, self._num_read = step_blocks, 0
        self._step = -1
        self._of_step: list[dict[str, Any]] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stream")
        self._ahead = self._thread.submit(self._read_step)

    def get(self, place: int) -> tuple[Sample, dict[str, Any]]:
        """See BlockSource. Raises InputError where the stream ends, or breaks, within the step of `place`."""
        step, number = divmod(place, self._step_blocks)
        assert step >= self._step, "a stream cannot go back"
        while self._step < step:
            self._of_step = self._ahead.result()
            self._step += 1
            self._ahead = self._thread.submit(self._read_step)
        return Sample(0, place), self._of_step[number]

    def _read_step(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        while len(rows) < self._step_blocks:
            row = self._next_row()
            if row is None:
                raise InputError(
                    f"[data] stream = true, but the text ends after {self._num_read} blocks.\n"
                    "  lower [train] num_steps, or name more text."
                )
            self._num_read += 1
            rows.append(row)
        return rows

    def _next_row(self) -> dict[str, Any] | None:
        try:
            return next(self._rows, None)
        except DskdError:
            raise
        except Exception as error:  # of the reader, the network, the file: datasets raises a dozen unrelated classes
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise InputError(
                f"[data] stream = true, but the text cannot be read further than {self._num_read} blocks: {reason}\n"
                "  mend the source, then call again: the run goes on from its last checkpoint."
            ) from None


def open_source(spec: RunSpec) -> BlockSource:
    """The training blocks of a spec, mapped or streamed."""
    blocks = train_blocks(spec)
    return (
        StreamedBlocks(blocks, spec.train.global_batch_blocks)
        if spec.data.stream
        else MappedBlocks(blocks, spec.seed)
    )


def places(spec: RunSpec, step: int, micro: int, rank: int) -> range:
    """Places in the global order that a rank works on: step by step, then accumulation step, then rank.

    The set of places of a step is the same for every number of ranks.
    """
    size = spec.train.micro_batch_blocks
    start = (
        step * spec.train.global_batch_blocks + (micro * spec.topology.num_students + rank) * size
    )
    return range(start, start + size)


def read_batch(source: BlockSource, wanted: range) -> Batch:
    """The batch of some places."""
    samples, rows = zip(*(source.get(place) for place in wanted), strict=True)
    return make_batch(rows, samples)


def num_steps(spec: RunSpec, source: BlockSource) -> int:
    """Optimiser steps of the run; epochs are counted in whole steps."""
    if spec.train.num_steps is not None:
        return spec.train.num_steps
    assert isinstance(source, MappedBlocks)
    assert spec.train.num_epochs is not None
    return max(1, int(spec.train.num_epochs * len(source) / spec.train.global_batch_blocks))

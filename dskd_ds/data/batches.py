"""The batches of each rank, in a global order of blocks that does not depend on the ranks."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dskd_ds.data.block import Block, Blocks
from dskd_ds.data.blocks import position_ids
from dskd_ds.data.shuffle import Permutation, permutation
from dskd_ds.spec import RunSpec

IGNORE = -100
"""The target of a position that is not supervised."""
PADDING = 0
"""Token that fills rows up to the longest of a batch. Every vocabulary has it; no token of a text
attends to padding, and nothing is learned there."""


@dataclass(frozen=True)
class Sample:
    """A block in an epoch. The two numbers are the key of every random draw for it."""

    epoch: int
    block: int


@dataclass(frozen=True)
class Batch:
    """B rows of T tokens, ready for a forward pass: blocks, or documents padded to the longest."""

    samples: tuple[Sample, ...]
    input_ids: Tensor
    """[B, T] int64"""
    position_ids: Tensor
    """[B, T] int64, restarting at 0 with each document."""
    targets: Tensor
    """[B, T] int64: the next token of the same document.

    IGNORE if there is none, or if it is not to be learned (the prompt of a conversation).
    """
    num_padding: int = 0
    """Number of positions that only fill rows up to T."""

    @property
    def supervised(self) -> Tensor:
        """[N] positions with a target, as indices into the flattened B * T, ascending."""
        return (self.targets.flatten() != IGNORE).nonzero().squeeze(1)


def make_batch(rows: Sequence[Block], samples: Sequence[Sample]) -> Batch:
    """Return the batch of these rows, padded to the longest. samples: one per row."""
    lengths = [len(row["input_ids"]) for row in rows]
    width = max(lengths)
    input_ids = torch.full((len(rows), width), PADDING)
    positions = torch.zeros_like(input_ids)
    is_target = torch.zeros_like(input_ids, dtype=torch.bool)
    for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        input_ids[index, :length] = torch.tensor(row["input_ids"])
        # Padding is a document of its own, so that no token of the text attends to it.
        starts = [*row["segment_starts"], *([length] if length < width else [])]
        positions[index] = torch.tensor(position_ids(starts, width))
        # The first token of a document cannot be predicted.
        is_target[index, :length] = positions[index, :length] > 0
        for start, end in row["unsupervised"]:
            is_target[index, start:end] = False
    targets = torch.full_like(input_ids, IGNORE)
    targets[:, :-1] = torch.where(is_target[:, 1:], input_ids[:, 1:], IGNORE)
    return Batch(
        samples=tuple(samples),
        input_ids=input_ids,
        position_ids=positions,
        targets=targets,
        num_padding=len(rows) * width - sum(lengths),
    )


def num_targets(block: Block) -> int:
    """Return the number of positions that have a target in a batch of this block."""
    is_target = np.ones(len(block["input_ids"]), dtype=bool)
    is_target[np.asarray(block["segment_starts"], dtype=np.int64)] = False
    for start, end in block["unsupervised"]:
        is_target[start:end] = False
    return int(is_target.sum())


class BlockSource(Protocol):
    """The training blocks, by their place in the global order."""

    def get(self, place: int) -> tuple[Sample, Block]:
        """Return the block that the run trains on at this place, counted from 0."""
        ...


class MappedBlocks:
    """Mapped blocks, in a new permutation per epoch, keyed by (seed, epoch)."""

    def __init__(self, blocks: Blocks, seed: int) -> None:
        self.blocks, self.seed = blocks, seed
        # Two are kept, because a step can begin in one epoch and end in the next.
        self._permutation = lru_cache(maxsize=2)(self._make_permutation)

    def __len__(self) -> int:
        return len(self.blocks)

    def num_blocks(self, num_epochs: float) -> float:
        """Return the number of blocks in a number of epochs; both may have a fraction."""
        return num_epochs * len(self.blocks)

    def get(self, place: int) -> tuple[Sample, Block]:
        """See BlockSource."""
        epoch, index = divmod(place, len(self.blocks))
        block = self._permutation(epoch)[index]
        return Sample(epoch, block), self.blocks[block]

    def _make_permutation(self, epoch: int) -> Permutation:
        return permutation(len(self.blocks), self.seed, epoch)


class BlocksByEpoch:
    """Mapped blocks of which each epoch has others, after the last one the first again."""

    def __init__(self, epochs: Sequence[Blocks], seed: int) -> None:
        self._epochs, self._seed = epochs, seed
        self._ends = list(itertools.accumulate(map(len, epochs)))
        self._permutation = lru_cache(maxsize=2)(self._make_permutation)

    def num_blocks(self, num_epochs: float) -> float:
        """See MappedBlocks."""
        whole = int(num_epochs)
        sizes = [len(self._epochs[epoch % len(self._epochs)]) for epoch in range(whole + 1)]
        return sum(sizes[:whole]) + (num_epochs - whole) * sizes[whole]

    def get(self, place: int) -> tuple[Sample, Block]:
        """See BlockSource."""
        cycle, rest = divmod(place, self._ends[-1])
        file = bisect.bisect_right(self._ends, rest)
        index = rest - (self._ends[file - 1] if file else 0)
        epoch = cycle * len(self._epochs) + file
        block = self._permutation(epoch)[index]
        return Sample(epoch, block), self._epochs[file][block]

    def _make_permutation(self, epoch: int) -> Permutation:
        return permutation(len(self._epochs[epoch % len(self._epochs)]), self._seed, epoch)


def places(spec: RunSpec, step: int, micro: int, rank: int) -> range:
    """Return the places in the global order of one micro-batch of one rank.

    Places are ordered by step, then by accumulation step, then by rank, so the set of places of a
    step is the same for any number of ranks.
    """
    size = spec.train.micro_batch_blocks
    step_start = step * spec.train.global_batch_blocks
    start = step_start + (micro * spec.topology.num_students + rank) * size
    return range(start, start + size)


def read_batch(source: BlockSource, wanted: range) -> Batch:
    """Return the batch of these places."""
    samples, rows = zip(*(source.get(place) for place in wanted), strict=True)
    return make_batch(rows, samples)

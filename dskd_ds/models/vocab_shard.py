"""The rows of an LM head that one rank of a teacher holds, and collectives between its ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class VocabShard(Protocol):
    """One rank's rows of the head, and how it exchanges what it finds in them.

    All ranks of the teacher call the same collectives in the same order with equal shapes.
    """

    @property
    def rank(self) -> int:
        """Rank within the teacher; rank r holds the r-th rows."""
        ...

    @property
    def first(self) -> int:
        """Token id of this rank's first row."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of rows of all ranks together."""
        ...

    def all_gather(self, values: Tensor) -> list[Tensor]:
        """Return the values of every rank, in the order of the ranks."""
        ...

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """Replace values by their sum over the ranks, and return them."""
        ...

    def all_reduce_max(self, values: Tensor) -> Tensor:
        """Replace values by their maximum over the ranks, and return them."""
        ...


@dataclass(frozen=True)
class RankShard:
    """The rows of this process's rank in its torch world, which is the teacher's."""

    first: int
    vocab_size: int

    @property
    def rank(self) -> int:
        """See VocabShard."""
        return dist.get_rank()

    def all_gather(self, values: Tensor) -> list[Tensor]:
        """See VocabShard."""
        if not values.numel():  # backends differ in what they do with nothing
            return [values] * dist.get_world_size()
        values = values.contiguous()
        gathered = [torch.empty_like(values) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, values)
        return gathered

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """See VocabShard."""
        if values.numel():
            dist.all_reduce(values, dist.ReduceOp.SUM)
        return values

    def all_reduce_max(self, values: Tensor) -> Tensor:
        """See VocabShard."""
        if values.numel():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values

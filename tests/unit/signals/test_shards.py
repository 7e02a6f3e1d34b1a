"""Top k and draws from logits that are divided over ranks equal those from whole logits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import pytest
import torch
from torch import Tensor

from dskd_ds.models.vocab_shard import VocabShard
from dskd_ds.signals.parts.draws import take_draws
from dskd_ds.signals.parts.shards import take_draws_at, take_top_k_at
from dskd_ds.signals.parts.top_k import take_top_k

TEMPERATURES = (1.0, 2.0)
Taken = TypeVar("Taken")


class Meeting:
    """Lets the threads of one teacher exchange tensors, as its ranks do."""

    def __init__(self, size: int) -> None:
        self._barrier = threading.Barrier(size, timeout=60)
        self._given: list[Tensor | None] = [None] * size

    def exchange(self, rank: int, values: Tensor) -> list[Tensor]:
        """Return what every thread gave; all must give the same shape and type."""
        self._given[rank] = values.clone()
        self._barrier.wait()
        given = [item.clone() for item in self._given if item is not None]
        self._barrier.wait()
        assert {(item.shape, item.dtype) for item in given} == {(values.shape, values.dtype)}
        return given


@dataclass(frozen=True)
class ThreadShard:
    """A thread's share of the vocabulary."""

    rank: int
    first: int
    vocab_size: int
    meeting: Meeting

    def all_gather(self, values: Tensor) -> list[Tensor]:
        return self.meeting.exchange(self.rank, values)

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        return torch.stack(self.meeting.exchange(self.rank, values)).sum(dim=0)

    def all_reduce_max(self, values: Tensor) -> Tensor:
        return torch.stack(self.meeting.exchange(self.rank, values)).amax(dim=0)


def on_shards(
    logits: Tensor, widths: list[int], take: Callable[[Tensor, VocabShard], Taken]
) -> list[Taken]:
    """Return what every rank takes; widths: rows of the head that each rank holds."""
    meeting = Meeting(len(widths))
    starts = [sum(widths[:rank]) for rank in range(len(widths))]

    def of_rank(rank: int) -> Taken:
        shard = ThreadShard(rank, starts[rank], sum(widths), meeting)
        return take(logits[:, starts[rank] : starts[rank] + widths[rank]].clone(), shard)

    with ThreadPoolExecutor(len(widths)) as pool:
        return list(pool.map(of_rank, range(len(widths))))


def random_logits(vocab_size: int, num_rows: int = 33) -> Tensor:
    generator = torch.Generator().manual_seed(vocab_size)
    return 4 * torch.randn(num_rows, vocab_size, generator=generator)


@pytest.mark.parametrize(
    ("widths", "k"),
    [([30, 30], 7), ([20, 20, 20, 4], 7), ([20, 20, 5], 12), ([8, 8], 16), ([5, 5], 9)],
)
def test_the_top_k(widths: list[int], k: int) -> None:
    """Also where k exceeds the rows of one rank, or takes all tokens."""
    logits = random_logits(sum(widths))
    expected = take_top_k(logits, k, TEMPERATURES)
    for found in on_shards(
        logits, widths, lambda part, shard: take_top_k_at(part, k, TEMPERATURES, shard)
    ):
        assert torch.equal(found.ids, expected.ids)
        assert torch.equal(found.logits, expected.logits)
        torch.testing.assert_close(found.tail, expected.tail, rtol=1e-6, atol=1e-6)


def test_a_top_k_without_tails_or_rows() -> None:
    logits = random_logits(12, num_rows=0)
    found = on_shards(logits, [6, 6], lambda part, shard: take_top_k_at(part, 4, (), shard))
    assert [(item.ids.shape, item.tail.shape) for item in found] == [((0, 4), (0, 0))] * 2


@pytest.mark.parametrize("widths", [[30, 30], [20, 20, 20, 4]])
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_draws(widths: list[int], tau: float) -> None:
    logits = random_logits(sum(widths))
    logits[0] = torch.arange(sum(widths)) * 30.0  # all of the mass is the last rank's
    logits[1] = -logits[0]
    uniforms = torch.rand(33, 25, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = take_draws(logits, tau, uniforms)
    for found in on_shards(
        logits, widths, lambda part, shard: take_draws_at(part, tau, uniforms, shard)
    ):
        assert torch.equal(found.lengths, expected.lengths)
        assert torch.equal(found.ids, expected.ids)
        assert torch.equal(found.counts, expected.counts)
        torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=1e-5, atol=1e-6)

"""Runs a function on several ranks, which are threads here, with the collectives of `dist`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from dskd_ds.student import collectives, heldout_loss
from dskd_ds.student.checkpoint import files as checkpoint_files
from dskd_ds.student.checkpoint import held_state, saving, writes, zero_stages

T = TypeVar("T")


class ThreadComm:
    """What the student calls of `deepspeed.comm`, between threads of this process."""

    def __init__(self, num_ranks: int) -> None:
        self._num_ranks = num_ranks
        self._local = threading.local()
        self._barrier = threading.Barrier(num_ranks, timeout=30)
        self._sent: list[Tensor | None] = [None] * num_ranks

    def become(self, rank: int) -> None:
        """Make the calling thread this rank."""
        self._local.rank = rank

    def get_rank(self) -> int:
        return getattr(self._local, "rank", 0)

    def get_world_size(self) -> int:
        return self._num_ranks

    def broadcast(self, tensor: Tensor, source: int) -> None:
        gathered = self._exchange(tensor)
        tensor.copy_(gathered[source])

    def all_reduce(self, tensor: Tensor) -> None:
        tensor.copy_(torch.stack(self._exchange(tensor)).sum(0))

    def all_gather(self, tensors: list[Tensor], tensor: Tensor) -> None:
        for target, sent in zip(tensors, self._exchange(tensor), strict=True):
            target.copy_(sent)

    def _exchange(self, tensor: Tensor) -> list[Tensor]:
        self._sent[self.get_rank()] = tensor.clone()
        self._barrier.wait()
        gathered = [sent for sent in self._sent if sent is not None]
        self._barrier.wait()
        assert len({tuple(sent.shape) for sent in gathered}) == 1, "ranks sent unequal shapes"
        return gathered


def use_ranks(monkeypatch: pytest.MonkeyPatch, num_ranks: int) -> ThreadComm:
    """Let the modules under test communicate between this number of threads."""
    comm = ThreadComm(num_ranks)
    modules = (
        checkpoint_files,
        collectives,
        held_state,
        heldout_loss,
        saving,
        writes,
        zero_stages,
    )
    for module in modules:
        monkeypatch.setattr(module, "dist", comm)
    return comm


def on_all_ranks(comm: ThreadComm, function: Callable[[int], T]) -> list[T | Exception]:
    """Return what `function(rank)` returned or raised on each rank."""

    def run(rank: int) -> Any:
        comm.become(rank)
        try:
            return function(rank)
        except Exception as error:
            return error

    with ThreadPoolExecutor(comm.get_world_size()) as pool:
        return list(pool.map(run, range(comm.get_world_size())))

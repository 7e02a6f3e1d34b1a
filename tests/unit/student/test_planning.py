"""A rank that cannot plan a step: with on-policy steps all ranks stop planning at the same one."""

from __future__ import annotations

import errno
import os
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dskd_ds.data.batches import Sample
from dskd_ds.errors import ExitCode, InputError, OtherRankError
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student import on_policy
from dskd_ds.student.collectives import raise_on_every_rank
from dskd_ds.student.phases import Phases
from dskd_ds.student.replies.feed import Feed
from dskd_ds.student.verdict import prepare
from tests.unit.student.ranks import on_all_ranks, use_ranks

NUM_RANKS, FAULTY_RANK, T = 2, 1, 16
DEPTH = 2


class StepBlocks:
    """Blocks whose on-policy steps need all ranks; those of one step cannot be read by one rank."""

    def __init__(self, rank: int, faulty_step: int, error: Exception) -> None:
        self._rank, self._faulty_step, self._error = rank, faulty_step, error
        self.met_in: list[int] = []
        """The steps that all ranks wrote together."""

    def get(self, block_index: int) -> tuple[Sample, dict[str, Any]]:
        """Return a block; for an on-policy step this is a collective call, as in OnPolicyBlocks."""
        step = block_index // NUM_RANKS
        is_broken = step == self._faulty_step and self._rank == FAULTY_RANK
        error = self._error if is_broken else None
        if on_policy.is_on_policy(0.5, step):
            raise_on_every_rank(error)
            self.met_in.append(step)
        elif error:
            raise error
        row = {"input_ids": [1] * T, "segment_starts": [0], "unsupervised": []}
        return Sample(0, block_index), row


class NoLink:
    """A link whose requests are never answered."""

    def __init__(self) -> None:
        self._futures: list[Future[Any]] = []

    def submit(self, *_args: Any, **_options: Any) -> Future[Any]:
        self._futures.append(Future())
        return self._futures[-1]

    def close(self) -> None:
        for future in self._futures:
            future.cancel()


class Requests:
    """Requests that hold nothing but their batch."""

    def request(self, batch: Any) -> Any:
        return SimpleNamespace(batch=batch, selection=None, arrays={}, wanted=None)

    def most_reply_bytes(self, _request: Any) -> int:
        return 0

    def parts(self, *_args: Any) -> None: ...


def spec_of() -> RunSpec:
    settings = [
        "train.on_policy_fraction=0.5",
        f"train.global_batch_blocks={NUM_RANKS}",
        f"topology.num_students={NUM_RANKS}",
        f"data.block_tokens={T}",
        "train.on_policy_prompt_tokens=4",
        "train.on_policy_new_tokens=4",
        f"link.prefetch_depth={DEPTH}",
    ]
    return load_spec("tests/base_run.toml", settings)


def planned_by_ranks(
    monkeypatch: pytest.MonkeyPatch, faulty_step: int, error: Exception, calls: int
) -> list[Any]:
    """Let both ranks plan, and return what the last call of `prepare` met on each, and its feed."""
    comm = use_ranks(monkeypatch, NUM_RANKS)
    spec = spec_of()

    def plan(rank: int) -> Any:
        blocks = StepBlocks(rank, faulty_step, error)
        feed = Feed(
            spec,
            rank=rank,
            source=blocks,
            link=NoLink(),
            requests=Requests(),
            self_test=None,
            device=torch.device("cpu"),
            steps=range(100),
        )
        try:
            met = None
            for _ in range(calls):
                # A stop is wanted, so `next` returns without a reply.
                met = prepare(feed, lambda: True, Phases().enter).error
                if met is None and feed._planned:
                    feed._planned.popleft()  # the step is trained
            return met, len(feed._planned), blocks.met_in
        finally:
            feed.close()

    return on_all_ranks(comm, plan)


@pytest.mark.parametrize("faulty_step", [0, 1, 2, 3, 4])
def test_an_oserror_of_one_rank_ends_planning_on_all(
    monkeypatch: pytest.MonkeyPatch, faulty_step: int
) -> None:
    """Steps 1 and 3 are on-policy: their text is written in the midst of the planning."""
    error = OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    calls = max(1, faulty_step - DEPTH + 1)  # the call in which the step is planned
    first, second = planned_by_ranks(monkeypatch, faulty_step, error, calls)
    assert second[0] is error
    # This rank waits for the verdict; it would raise the other's error after its planned steps.
    assert first[0] is None or isinstance(first[0], OtherRankError)
    assert first[1:] == (first[1], second[2])
    assert second[2] == [step for step in (1, 3) if step < faulty_step]


def test_a_text_that_ends_for_one_rank_ends_for_all_at_the_same_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faulty_step = 3
    error = InputError("the text ends")
    first, second = planned_by_ranks(monkeypatch, faulty_step, error, calls=faulty_step + 1)
    assert isinstance(first[0], OtherRankError)
    assert first[0].exit_code is ExitCode.WRONG_INPUT
    assert second[0] is error
    assert first[1:] == second[1:] == (0, [1])

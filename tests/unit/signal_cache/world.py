"""A small teacher, text of two epochs, and feeds that are answered without a socket."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dskd_ds.data.batches import Sample
from dskd_ds.link import Answer, StudentSide
from dskd_ds.link.messages import Array, Wanted
from dskd_ds.models.frozen import FrozenModel
from dskd_ds.models.head import FrozenHead
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.signal_cache.cache import SignalCache
from dskd_ds.signal_cache.cached_side import CachedSide
from dskd_ds.signal_cache.store import SignalStore
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.replies.alignment import AlignmentTest
from dskd_ds.student.replies.feed import Feed, MicroBatch
from dskd_ds.student.replies.requests import RequestBuilder
from dskd_ds.teacher.answer import answer
from tests.unit.conftest import D, T, V

NUM_BLOCKS = 8
"""Of the text; an epoch has them all, in another order."""


class Text:
    """Blocks of random tokens and two documents each; those of the second epoch are shuffled."""

    def get(self, place: int) -> tuple[Sample, dict[str, Any]]:
        epoch, index = divmod(place, NUM_BLOCKS)
        block = int(np.random.default_rng(epoch).permutation(NUM_BLOCKS)[index])
        source = np.random.default_rng([7, block])
        length = T - int(source.integers(0, 5))  # rows of several lengths, as with packing = "none"
        return Sample(epoch, block), {
            "input_ids": source.integers(1, V, length).tolist(),
            "segment_starts": [0, int(source.integers(2, length - 2))],
            "unsupervised": [],
        }


@dataclass
class DirectLink:
    """A StudentSide that computes answers at once, and counts what it was asked."""

    teacher: FrozenModel
    fingerprint: str | None = "the teacher"
    rows: int = 0
    """Rows that were asked."""
    positions: dict[str, int] = field(default_factory=dict)
    """Positions that were asked, by part."""
    is_closed: bool = False

    def submit(
        self, arrays: dict[str, Array], wanted: Wanted, reply_bytes: int = 0, check: Any = None
    ) -> Future[Answer]:
        del reply_bytes
        self.rows += len(arrays["input_ids"])
        for part in ("top_k", "draw", "hidden"):
            count = len(arrays[f"{part}_positions"])
            self.positions[part] = self.positions.get(part, 0) + count
        replied = answer(self.teacher, arrays, wanted)
        if check:
            check(replied)
        future: Future[Answer] = Future()
        future.set_result(Answer(replied, "direct", forward_seconds=0.0, link_bytes=10))
        return future

    def expect_no_restart(self) -> None:
        """Nobody is told."""

    def close(self) -> None:
        self.is_closed = True


def spec_of(signal: str, *changes: str) -> RunSpec:
    """A run of two epochs of the text, without senses unless `changes` say otherwise."""
    kd = ["loss.kd_weight=0", "loss.sense_weight=1"] if signal == "hidden" else []
    return load_spec(
        "tests/base_run.toml",
        [
            f"loss.signal={signal}",
            "loss.top_k=4",
            "loss.num_draws=9",
            "loss.sense_weighting=teacher_probability",
            *kd,
            "senses.kappa=2",
            "senses.min_positions=6",
            "senses.num_neighbours=30",
            "senses.candidates=lexical",
            f"data.block_tokens={T}",
            "topology.num_students=1",
            f"train.global_batch_blocks={NUM_BLOCKS // 2}",
            "teacher.source=cache_or_live",
            *changes,
        ],
    )


def cached(link: StudentSide | None, root: Path, own: str = "the teacher") -> CachedSide:
    """A side whose cache is in `root`."""
    return CachedSide(
        link,
        own_fingerprint=lambda: own,
        open_cache=lambda fingerprint: cache_in(root, fingerprint),
        sizes=(V, D),
        fill_command="dskd teach my.toml",
    )


def cache_in(root: Path, fingerprint: str = "the teacher") -> SignalCache:
    store = SignalStore(root, root / fingerprint.replace(" ", "-"))
    store.refresh()
    return SignalCache(store, fingerprint)


def micro_batches(
    spec: RunSpec,
    link: StudentSide,
    retriever: SenseRetriever | None,
    steps: Sequence[int] = range(4),
    rank: int = 0,
    head: torch.Tensor | None = None,
) -> list[MicroBatch]:
    """What a feed gives for these steps; an epoch has two. Closes the link."""
    requests = RequestBuilder(spec, retriever, V, D)
    teacher_head = FrozenHead(head) if head is not None else None
    feed = Feed(
        spec,
        rank=rank,
        source=Text(),
        link=link,
        requests=requests,
        self_test=AlignmentTest(requests, teacher_head, 0.0, is_printing=False),
        device=torch.device("cpu"),
        steps=range(steps[0], steps[-1] + 1),
    )
    try:
        found: list[MicroBatch] = []
        for _ in steps:
            step = feed.next()
            assert step is not None
            found += step.micro_batches
        return found
    finally:
        feed.close()

"""Teacher's states over a corpus -> a bounded, uniform sample of vectors for each token.

A position's last hidden state belongs to the token it predicts. Kept are, for each token, the vectors with the smallest
`hash(seed, document, position)`: a uniform sample that does not depend on the order of reading, so batches may be dealt to any
number of ranks and the merged result is the same (METHOD.md, "Building the dictionary").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dskd_ds.data.batches import IGNORE, Batch, Sample, make_batch
from dskd_ds.spec.senses import SensesSpec
from dskd_ds.teacher.model import TeacherModel

QUERY_SHARE = 64
"""One vector in this many is kept out of the senses, to measure the index with states it has not seen."""
COMPACT_ROWS = 65_536
"""New rows that are gathered before the sample is cut back to its bound."""


@dataclass(frozen=True)
class Vectors:
    """Attributed vectors, sorted by (token, hash)."""

    tokens: NDArray[np.int64]
    """[M]"""
    hashes: NDArray[np.uint64]
    """[M]"""
    states: NDArray[np.uint16]
    """[M, D], the bits of bfloat16."""

    def __len__(self) -> int:
        return len(self.tokens)

    def where(self, mask: NDArray[np.bool_]) -> Vectors:
        """The rows that a mask admits."""
        return Vectors(self.tokens[mask], self.hashes[mask], self.states[mask])

    @staticmethod
    def none(hidden_size: int) -> Vectors:
        """No vectors."""
        return Vectors(np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros((0, hidden_size), np.uint16))

    @staticmethod
    def concatenate(parts: list[Vectors]) -> Vectors:
        """All rows of several parts, not sorted."""
        return Vectors(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("tokens", "hashes", "states")))

    def smallest(self, per_token: int) -> Vectors:
        """At most `per_token` rows for each token, those with the smallest hashes; sorted. A row given twice is kept once."""
        order = np.lexsort((self.hashes, self.tokens))
        tokens, hashes = self.tokens[order], self.hashes[order]
        fresh = np.ones(len(order), bool)
        fresh[1:] = (tokens[1:] != tokens[:-1]) | (hashes[1:] != hashes[:-1])
        order, tokens = order[fresh], tokens[fresh]
        first = np.searchsorted(tokens, tokens)  # start of each row's token
        order = order[np.arange(len(tokens)) - first < per_token]
        return Vectors(self.tokens[order], self.hashes[order], self.states[order])


class Reservoir:
    """A bounded sample that grows batch by batch."""

    def __init__(self, per_token: int, hidden_size: int) -> None:
        self._per_token = per_token
        self._kept = Vectors.none(hidden_size)
        self._fresh: list[Vectors] = []

    def add(self, vectors: Vectors) -> None:
        """Add rows; the bound holds again after at most COMPACT_ROWS of them."""
        self._fresh.append(vectors)
        if sum(map(len, self._fresh)) >= COMPACT_ROWS:
            self.vectors()

    def vectors(self) -> Vectors:
        """The sample so far."""
        self._kept = Vectors.concatenate([self._kept, *self._fresh]).smallest(self._per_token)
        self._fresh = []
        return self._kept


def position_hashes(seed: int, row: dict[str, Any], block_tokens: int) -> NDArray[np.uint64]:
    """[T]: hash of (seed, document digest, position in the document) of each position of a packed block."""
    starts = np.asarray(row["segment_starts"])
    lengths = np.diff(np.append(starts, block_tokens))
    digests = np.repeat(np.asarray(row["doc_digests"], np.int64).view(np.uint64), lengths)
    within = np.arange(block_tokens) - np.repeat(starts, lengths) + np.repeat(np.asarray(row["doc_offsets"]), lengths)
    hashes: NDArray[np.uint64] = _mix(_mix(digests ^ _mix(np.uint64(seed))) ^ within.astype(np.uint64))
    return hashes


def _mix(values: Any) -> Any:
    """splitmix64's finaliser (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014)."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


def forward_batches(num_blocks: int, blocks_at_once: int, rank: int, size: int) -> Iterator[range]:
    """Blocks of each forward pass of a rank. Batches are fixed globally and then dealt, so their shapes do not depend on `size`."""
    for number, start in enumerate(range(0, num_blocks - blocks_at_once + 1, blocks_at_once)):
        if number % size == rank:
            yield range(start, start + blocks_at_once)


@torch.inference_mode()
def attributed(teacher: TeacherModel, rows: list[dict[str, Any]], spec: SensesSpec, seed: int) -> Vectors:
    """Vectors of some packed blocks, each with the token it is attributed to."""
    batch: Batch = make_batch(rows, [Sample(0, 0)] * len(rows))
    hidden = teacher.hidden_states(batch.input_ids, batch.position_ids).flatten(0, 1)
    if spec.attribution == "argmax":
        tokens = torch.cat([teacher.logits(part).argmax(dim=1) for part in hidden.split(512)]).cpu()
    else:
        tokens = batch.targets.flatten()
    hashes = np.concatenate([position_hashes(seed, row, batch.input_ids.shape[1]) for row in rows])
    states = hidden.to(torch.bfloat16).view(torch.int16).cpu().numpy().view(np.uint16)
    keep = (tokens != IGNORE).numpy()
    return Vectors(tokens.numpy()[keep], hashes[keep], states[keep])


def split_queries(vectors: Vectors) -> tuple[Vectors, Vectors]:
    """(vectors for the senses, held-out states that only measure the index), split by hash."""
    is_query = vectors.hashes % np.uint64(QUERY_SHARE) == 0
    return vectors.where(~is_query), vectors.where(is_query)

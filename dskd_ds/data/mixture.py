"""Training blocks from sources with weights: each source gives its share of the tokens.

The source of a place, and the number of the block within the source, follow from the place by a
formula: nothing is stored, any place is found at once, and ranks do not matter.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from dskd_ds.data.batches import Sample
from dskd_ds.data.block import Block, Blocks
from dskd_ds.data.shuffle import Permutation, permutation

LARGEST_DENOMINATOR = 10**6
"""Weights are rounded to fractions with at most this denominator, so that sums are exact."""


class WeightedSource(NamedTuple):
    """A source in a mixture."""

    blocks: Blocks
    num_tokens: int
    """Tokens of all its blocks, without padding."""
    weight: float


class WeightedBlocks:
    """A BlockSource that mixes sources by their weights.

    A source is read in a new permutation each time it is used up. An epoch of the run has as many
    blocks as all sources together.
    """

    def __init__(self, sources: Sequence[WeightedSource], seed: int) -> None:
        self._sources = [source.blocks for source in sources]
        self._seed = seed
        self._splits = _splits(_block_shares(sources))
        self._firsts = [0, *itertools.accumulate(map(len, self._sources))]
        # Two per source, because a step can begin in one epoch of it and end in the next.
        self._permutation = lru_cache(maxsize=2 * len(sources))(self._make_permutation)

    def num_blocks(self, num_epochs: float) -> float:
        """Return the number of blocks in a number of epochs; both may have a fraction."""
        return num_epochs * self._firsts[-1]

    def get(self, place: int) -> tuple[Sample, Block]:
        """See BlockSource. The samples of all sources have different numbers."""
        source, number = self.locate(place)
        blocks = self._sources[source]
        epoch, index = divmod(number, len(blocks))
        block = self._permutation(source, epoch)[index]
        return Sample(epoch, self._firsts[source] + block), blocks[block]

    def locate(self, place: int) -> tuple[int, int]:
        """Return the source of a place, and how many places before it have this source."""
        for source, share in enumerate(self._splits):
            # Of the first n places that are left, floor(n x share) are of this source.
            before, with_this = _floor(place, share), _floor(place + 1, share)
            if with_this > before:
                return source, before
            place -= before
        raise AssertionError("the share of the last source is 1")

    def source_of(self, sample: Sample) -> int:
        """Return the index of the source that a sample is of."""
        return bisect.bisect_right(self._firsts, sample.block) - 1

    def _make_permutation(self, source: int, epoch: int) -> Permutation:
        return permutation(len(self._sources[source]), self._seed, epoch)


def _block_shares(sources: Sequence[WeightedSource]) -> list[Fraction]:
    """Return the share of the blocks that each source gives, from its share of the tokens.

    Blocks of one source may hold fewer tokens than those of another: rows that are not packed, or
    blocks of conversations.
    """
    shares: list[Fraction] = []
    for source in sources:
        weight = Fraction(source.weight).limit_denominator(LARGEST_DENOMINATOR)
        # A weight below the smallest fraction would leave the source out.
        weight = max(weight, Fraction(1, LARGEST_DENOMINATOR))
        shares.append(weight * Fraction(len(source.blocks), source.num_tokens))
    total = sum(shares, Fraction(0))
    return [share / total for share in shares]


def _splits(shares: Sequence[Fraction]) -> list[Fraction]:
    """Return the share of each source among itself and the sources after it; the last has 1."""
    splits: list[Fraction] = []
    remaining = Fraction(1)
    for share in shares:
        splits.append(share / remaining)
        remaining -= share
    return splits


def _floor(count: int, share: Fraction) -> int:
    return count * share.numerator // share.denominator

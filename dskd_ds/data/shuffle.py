"""The order in which an epoch reads its blocks: a permutation, keyed by (seed, epoch)."""

from __future__ import annotations

import hashlib
from typing import Protocol

import torch

from dskd_ds.runtime.seeds import epoch_seed

LARGEST_TABLE = 1 << 24
"""Longest permutation that is stored: 64 MB per epoch and rank, made in seconds. A longer one is
computed number by number."""
NUM_ROUNDS = 6
"""Rounds of the Feistel network; four make it pseudorandom (Luby and Rackoff, 1988)."""


class Permutation(Protocol):
    """A permutation of the numbers from 0."""

    def __getitem__(self, index: int, /) -> int:
        """Return the number at this place."""
        ...


def permutation(count: int, seed: int, epoch: int) -> Permutation:
    """Return the order of `count` blocks in an epoch."""
    if count > LARGEST_TABLE:
        return ComputedPermutation(count, epoch_seed(seed, epoch))
    return StoredPermutation(count, epoch_seed(seed, epoch))


class StoredPermutation:
    """A permutation that torch draws and that is stored as 32-bit numbers."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._numbers = torch.randperm(count, generator=generator, dtype=torch.int32)

    def __getitem__(self, index: int, /) -> int:
        return int(self._numbers[index])


class ComputedPermutation:
    """A permutation of any length that takes no memory: a Feistel network over pairs of halves.

    The network permutes the numbers below a power of four. A result that is too large is put in
    again until one is below `count`: at most four times on average.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._half_bits = max(1, ((count - 1).bit_length() + 1) // 2)
        self._key = seed.to_bytes(8, "little")

    def __getitem__(self, index: int, /) -> int:
        if not 0 <= index < self._count:
            raise IndexError(index)
        number = self._permuted(index)
        while number >= self._count:
            number = self._permuted(number)
        return number

    def _permuted(self, number: int) -> int:
        mask = (1 << self._half_bits) - 1
        left, right = number >> self._half_bits, number & mask
        for round_index in range(NUM_ROUNDS):
            left, right = right, left ^ (self._hash(round_index, right) & mask)
        return left << self._half_bits | right

    def _hash(self, round_index: int, value: int) -> int:
        content = bytes([round_index]) + value.to_bytes(8, "little")
        digest = hashlib.blake2b(content, digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "little")

"""Random records that the tests of the collection share."""

from __future__ import annotations

import numpy as np

from dskd_ds.senses.build.vectors import Rows, make_rows

NUM_TOKENS, SIZE = 7, 2


def random_rows(seed: int, count: int, num_hashes: int = 2**63) -> Rows:
    """Return rows whose state follows from token, hash and position, so that a mix-up shows."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, NUM_TOKENS, count)
    positions = generator.permutation(count)
    hashes = generator.integers(0, num_hashes, count).astype(np.uint64)
    states = np.stack([tokens * 1000 + positions, hashes % np.uint64(60_000)], axis=1)
    return make_rows(tokens, hashes, positions, states.astype(np.uint16))


def slow_sample(rows: Rows, per_token: int) -> list[tuple[int, int, int]]:
    """Return (token, hash, position) of each record of the sample, by brute force."""
    found: dict[int, dict[int, int]] = {}
    for token, hash_, position in keys(rows):
        positions = found.setdefault(token, {})
        positions[hash_] = min(position, positions.get(hash_, 2**62))
    return [
        (token, hash_, found[token][hash_])
        for token in sorted(found)
        for hash_ in sorted(found[token])[:per_token]
    ]


def keys(rows: Rows) -> list[tuple[int, int, int]]:
    """Return (token, hash, position) of each record."""
    return [(int(row["token"]), int(row["hash"]), int(row["position"])) for row in rows]

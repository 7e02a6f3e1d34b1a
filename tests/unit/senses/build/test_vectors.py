"""The uniform sample of vectors: hashes of positions, and the records with the smallest ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dskd_ds.data.packing import Segment, block_row
from dskd_ds.senses.build.vectors import (
    Rows,
    is_held_out,
    is_text,
    make_rows,
    position_hashes,
    smallest,
)
from tests.unit.conftest import T
from tests.unit.senses.build.rows import keys, random_rows, slow_sample


def block_of(digest: int) -> Any:
    """Return the segments of a block that holds the start of one document."""
    return {"segment_starts": [0], "doc_digests": [digest], "doc_offsets": [0]}


def rows_of(hashes: np.ndarray[Any, np.dtype[np.uint64]]) -> Rows:
    """Return records of one token with these hashes."""
    count = len(hashes)
    states = np.zeros((count, 1), np.uint16)
    return make_rows(np.zeros(count, np.int64), hashes, np.arange(count), states)


@given(
    seed=st.integers(0, 1000),
    count=st.integers(0, 80),
    per_token=st.integers(1, 6),
    num_hashes=st.sampled_from([5, 2**63]),
)
def test_smallest(seed: int, count: int, per_token: int, num_hashes: int) -> None:
    rows = random_rows(seed, count, num_hashes)
    assert keys(smallest(rows, per_token)) == slow_sample(rows, per_token)


def test_a_hash_does_not_depend_on_where_a_document_is_packed() -> None:
    block: Any = {"segment_starts": [0, 3], "doc_digests": [11, -7], "doc_offsets": [5, 0]}
    other: Any = {"segment_starts": [0], "doc_digests": [-7], "doc_offsets": [2]}
    hashes = position_hashes(0, block, 8)
    np.testing.assert_array_equal(hashes[5:8], position_hashes(0, other, 8)[:3])
    assert len(set(hashes.tolist())) == 8
    assert not np.array_equal(hashes, position_hashes(1, block, 8))


def test_all_positions_of_a_block_without_padding_are_text() -> None:
    full = block_row([Segment([1] * T, [], digest=-9, offset=0)], T, 0)
    assert is_text(full, T, [0]).all()


def test_the_sample_is_uniform() -> None:
    """Each tenth of a long document gives as many samples as the others."""
    counts = np.zeros(10)
    for seed in range(400):
        rows = rows_of(position_hashes(seed, block_of(123), 1000))
        counts += np.bincount(smallest(rows, 20)["position"] // 100, minlength=10)
    chi_squared = ((counts - 800) ** 2 / 800).sum()
    assert chi_squared < 27.9  # 9 degrees of freedom: exceeded by chance 1 time in 1,000


def test_one_vector_in_64_is_held_out() -> None:
    rows = rows_of(position_hashes(0, block_of(5), 64_000))
    assert 850 < is_held_out(rows).sum() < 1150

"""The order of an epoch: a permutation, the same for all ranks and versions, at any length."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_ds.data.shuffle import ComputedPermutation, permutation
from dskd_ds.runtime.seeds import epoch_seed


@given(count=st.integers(1, 300), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 9))
@settings(max_examples=40)
def test_a_stored_order_is_the_one_that_torch_draws(count: int, seed: int, epoch: int) -> None:
    """Runs of earlier versions go on in the same order."""
    generator = torch.Generator().manual_seed(epoch_seed(seed, epoch))
    order = permutation(count, seed, epoch)
    assert [order[index] for index in range(count)] == torch.randperm(
        count, generator=generator
    ).tolist()


@given(count=st.integers(1, 300), seed=st.integers(0, 2**64 - 1))
@settings(max_examples=40)
def test_a_computed_order_has_every_number_once(count: int, seed: int) -> None:
    order = ComputedPermutation(count, seed)
    assert sorted(order[index] for index in range(count)) == list(range(count))


def test_a_long_order_is_computed_and_looks_random() -> None:
    count = 10**12
    order, next_order = permutation(count, 1, 0), permutation(count, 1, 1)
    assert isinstance(order, ComputedPermutation)
    numbers = [order[index] for index in range(2000)]
    assert len(set(numbers)) == 2000
    assert numbers != [next_order[index] for index in range(2000)]
    # Uniform draws fall into each tenth 200 times, with a standard deviation of 13.
    tenths = [10 * number // count for number in numbers]
    assert all(130 < tenths.count(tenth) < 270 for tenth in range(10))
    rises = sum(second > first for first, second in itertools.pairwise(numbers))
    assert 900 < rises < 1100

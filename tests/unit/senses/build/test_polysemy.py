"""The number of senses of a token: merging against Ward's definition, and the price of senses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dskd_ds.senses.build.cluster import cluster
from dskd_ds.senses.build.polysemy import choose, merge_cheapest, merge_costs, prices
from tests.unit.senses.build.points import CPU, blobs, points_of, slow_error, spec


def slow_cheapest_merge(points: Tensor, weights: Tensor, labels: Tensor) -> float:
    """Return the smallest error that uniting two of the clusters adds."""
    before = slow_error(points, weights, labels)
    options = sorted(set(labels[weights > 0].tolist()))
    costs = []
    for kept in options:
        for gone in options:
            if kept < gone:
                united = torch.where(labels == gone, kept, labels)
                costs.append(slow_error(points, weights, united) - before)
    return min(costs)


@given(seed=st.integers(0, 1000), k=st.integers(2, 6))
def test_merging_is_wards(seed: int, k: int) -> None:
    """Each merge is the cheapest one, and the costs add up to the error of one cluster."""
    generator = torch.Generator().manual_seed(seed)
    centroids = torch.randn(2, k, 3, generator=generator)
    sizes = torch.randint(1, 5, (2, k), generator=generator).float()
    sizes[0, 0] = 0  # an empty cluster takes no part
    costs = merge_costs(torch.cdist(centroids, centroids).square(), sizes)
    labels = torch.arange(k).expand(2, -1)
    changing_sizes, total = sizes.clone(), torch.zeros(2)
    for _ in range(k - 1):
        before = labels
        cost, labels = merge_cheapest(costs, changing_sizes, labels)
        for row in range(2):
            if not torch.isfinite(cost[row]):
                assert torch.equal(before[row], labels[row])
                continue
            total[row] += cost[row]
            expected = slow_cheapest_merge(centroids[row], sizes[row], before[row])
            assert float(cost[row]) == pytest.approx(expected, rel=1e-3, abs=1e-4)
            alive = sizes[row] > 0
            num_before = len(set(before[row][alive].tolist()))
            assert len(set(labels[row][alive].tolist())) == num_before - 1
    for row in range(2):
        error_of_one = slow_error(centroids[row], sizes[row], torch.zeros(k))
        assert float(total[row]) == pytest.approx(error_of_one, rel=1e-3, abs=1e-3)


def test_the_price_is_akaikes_error_plus_that_of_the_senses() -> None:
    errors, counts = torch.tensor([[0.0, 4.0, 18.0]]), torch.tensor([[10, 2, 1]])
    totals = torch.tensor([10.0])
    found = prices(errors, counts, totals, min_senses=1, sense_cost=0.5)
    variance = 18 / 9
    expected = [torch.inf, 4 * 12 / 8 + 0.5 * variance * 2, 18 * 11 / 9 + 0.5 * variance]
    torch.testing.assert_close(found, torch.tensor([expected]))
    assert prices(errors, counts, totals, min_senses=10, sense_cost=0.5).argmin() == 0


def test_choose_leaves_single_clusters_alone() -> None:
    gaps, sizes = torch.zeros(1, 3, 3), torch.tensor([[5.0, 0.0, 0.0]])
    labels = choose(gaps, sizes, torch.tensor([3.0]), min_senses=1, sense_cost=1.0)
    assert labels[0, 0] == 0


def count_senses(states: Tensor, **settings: Any) -> int:
    """Return how many senses adaptive clustering gives one token with these states."""
    points = points_of(states, np.zeros(len(states), np.int64))
    return len(cluster(points, spec(clustering="adaptive", **settings), 0, CPU).owners)


@pytest.mark.parametrize("num_centres", [1, 2, 3, 5])
def test_adaptive_finds_the_number_of_groups(num_centres: int) -> None:
    states = blobs(num_centres, 12, num_centres, 64, 1.0)
    assert count_senses(states, num_senses=8) == num_centres


@given(
    seed=st.integers(0, 200),
    count=st.integers(1, 30),
    min_senses=st.integers(1, 4),
    num_senses=st.integers(4, 8),
)
def test_minimum_and_maximum_hold_and_a_price_never_adds_senses(
    seed: int, count: int, min_senses: int, num_senses: int
) -> None:
    states = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    found = [
        count_senses(states, num_senses=num_senses, min_senses=min_senses, sense_cost=cost)
        for cost in (0.0, 0.5, 2.0, 50.0)
    ]
    assert all(min(min_senses, count) <= number <= min(num_senses, count) for number in found)
    assert found == sorted(found, reverse=True)
    assert found[-1] == min(min_senses, count)

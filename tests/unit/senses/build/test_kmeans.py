"""Batched k-means against loops over sets, points and clusters in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dskd_ds.senses.build.kmeans import (
    PointSets,
    greedy_starts,
    kmeans,
    lloyd,
    num_trials,
    shares_of,
)
from tests.unit.senses.build.points import blobs, padded_sets


def assert_near(found: Tensor, expected: Tensor, tolerance: float = 1e-2) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=tolerance)


@given(
    seed=st.integers(0, 1000),
    longest=st.integers(2, 12),
    size=st.integers(1, 60),
    k=st.integers(1, 4),
)
def test_products_are_those_of_points_and_means(seed: int, longest: int, size: int, k: int) -> None:
    """With a Gram matrix (few points) and without one, distances equal those of single pairs."""
    all_points, weights = padded_sets(seed, longest, size)
    sets = PointSets(all_points, weights)
    assert (sets.gram is not None) == (3 * longest <= size)
    clusters = torch.randint(0, k, weights.shape, generator=torch.Generator().manual_seed(seed))
    shares, sizes = shares_of(clusters, weights, k)
    picks = torch.randint(0, longest, (3, 2), generator=torch.Generator().manual_seed(seed))
    to_points = sets.distances(sets.with_points(picks), sets.squares.gather(1, picks))
    for g in range(3):
        points, mass = all_points[g].double(), weights[g].double()
        cluster_masses = [mass * (clusters[g] == label) for label in range(k)]
        totals = [float(masses.sum()) for masses in cluster_masses]
        means = torch.stack(
            [
                (points * masses[:, None]).sum(0) / max(1e-30, total)
                for masses, total in zip(cluster_masses, totals, strict=True)
            ]
        )
        own = (points - means[clusters[g]]).square().sum(dim=1)
        assert_near(sets.means(shares)[g], means, tolerance=1e-3)
        assert_near(to_points[g], torch.cdist(points[picks[g]], points).square())
        assert_near(sets.gaps(shares)[g], torch.cdist(means, means).square())
        assert_near(sets.own_distances(shares, clusters)[g], own)
        assert sizes[g].tolist() == totals


def slow_lloyd(points: Tensor, weights: Tensor, clusters: Tensor, k: int) -> Tensor:
    """Run 25 of Lloyd's iterations on one set, with loops. A mean without points stays."""
    real = weights > 0
    means = torch.full((k, points.shape[1]), torch.inf, dtype=torch.float64)
    for _ in range(25):
        for label in range(k):
            chosen = real & (clusters == label)
            if chosen.any():
                mass = weights[chosen]
                means[label] = (points[chosen] * mass[:, None]).sum(dim=0) / mass.sum()
        clusters = torch.cdist(points, means.nan_to_num(posinf=1e6)).argmin(dim=1)
    return clusters


@given(
    seed=st.integers(0, 1000),
    k=st.integers(1, 5),
    longest=st.integers(2, 12),
    size=st.sampled_from([3, 40]),
)
def test_lloyd_equals_a_loop(seed: int, k: int, longest: int, size: int) -> None:
    all_points, weights = padded_sets(seed, longest, size)
    clusters = torch.randint(0, k, weights.shape, generator=torch.Generator().manual_seed(seed + 1))
    shares, sizes = shares_of(clusters, weights, k)
    found = lloyd(PointSets(all_points, weights), shares, sizes > 0)
    for g in range(3):
        expected = slow_lloyd(all_points[g].double(), weights[g], clusters[g], k)
        real = weights[g] > 0
        assert torch.equal(expected[real], found[g][real])


def test_a_weight_equals_repeated_points() -> None:
    points = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([[1.0, 2.0, 3.0, 1.0, 1.0, 2.0]])
    start = torch.tensor([[0, 1, 2, 0, 1, 2]])
    times = weights[0].long()

    def run(sets: PointSets, clusters: Tensor) -> tuple[Tensor, Tensor]:
        shares, sizes = shares_of(clusters, sets.weights, 3)
        found = lloyd(sets, shares, sizes > 0)
        return found, sets.means(shares_of(found, sets.weights, 3)[0])

    repeated = PointSets(points[0].repeat_interleave(times, dim=0)[None], torch.ones(1, 10))
    weighted_clusters, weighted_means = run(PointSets(points, weights), start)
    clusters, means = run(repeated, start[0].repeat_interleave(times)[None])
    assert torch.equal(weighted_clusters[0].repeat_interleave(times), clusters[0])
    torch.testing.assert_close(weighted_means, means)


@pytest.mark.parametrize("size", [8, 400])
def test_greedy_starts_find_every_group_and_never_a_gap(size: int) -> None:
    gap = torch.zeros(5, size)
    points = torch.stack([torch.cat([blobs(seed, 20, 5, size, 0.1), gap]) for seed in range(20)])
    weights = (torch.arange(105) < 100).float().expand(20, -1)
    draws = torch.rand(20, 5, num_trials(5), generator=torch.Generator().manual_seed(0))
    groups = greedy_starts(PointSets(points, weights), 5, draws) // 20
    assert all(sorted(row) == [0, 1, 2, 3, 4] for row in groups.tolist())
    for clusters in kmeans(PointSets(points, weights), 5, draws):
        cluster_of_group = clusters[:100].view(5, 20)[:, 0]
        assert len(set(cluster_of_group.tolist())) == 5

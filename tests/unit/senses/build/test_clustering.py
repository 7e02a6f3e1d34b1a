"""k-means, the number of senses, and senses as points of a refresh: each against something slow and obvious in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dskd_ds.senses.build.cluster import Points, cluster
from dskd_ds.senses.build.kmeans import (
    PointSets,
    greedy_starts,
    kmeans,
    lloyd,
    num_trials,
    shares_of,
)
from dskd_ds.senses.build.polysemy import choose, merge_cheapest, merge_costs, prices
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.spec.senses import SensesSpec

CPU = torch.device("cpu")


def spec(**settings: Any) -> SensesSpec:
    return SensesSpec(**({"dictionary": "-", "num_senses": 4} | settings))


def blobs(seed: int, per_centre: int, centres: int, size: int, noise: float) -> Tensor:
    """[centres * per_centre, size]: points around centres far from each other."""
    generator = torch.Generator().manual_seed(seed)
    middle = torch.randn(centres, size, generator=generator) * 10
    return middle.repeat_interleave(per_centre, dim=0) + noise * torch.randn(
        centres * per_centre, size, generator=generator
    )


def sets(seed: int, longest: int, size: int) -> tuple[Tensor, Tensor]:
    """Three padded sets of points with whole weights; what is beyond a set's end is rubbish, but no larger than float32 squares well."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(3, longest, size, generator=generator)
    lengths = torch.randint(2, longest + 1, (3, 1), generator=generator)
    weights = torch.randint(1, 4, (3, longest), generator=generator).float() * (
        torch.arange(longest) < lengths
    )
    return torch.where(weights[:, :, None] > 0, points, 9.0), weights


def points_of(states: Tensor, tokens: np.ndarray[Any, Any]) -> Points:
    number = len(states)
    return Points(
        tokens,
        states.to(torch.bfloat16),
        np.ones(number, np.int64),
        np.zeros(number, np.float32),
        np.arange(number),
    )


def slow_error(points: Tensor, weights: Tensor, clusters: Tensor) -> float:
    """Weighted squared distance from the clusters' means."""
    total = 0.0
    for label in set(clusters[weights > 0].tolist()):
        chosen = (clusters == label) & (weights > 0)
        members, mass = points[chosen].double(), weights[chosen].double()
        mean = (members * mass[:, None]).sum(dim=0) / mass.sum()
        total += float(((members - mean).square().sum(dim=1) * mass).sum())
    return total


@given(
    seed=st.integers(0, 1000),
    longest=st.integers(2, 12),
    size=st.integers(1, 60),
    k=st.integers(1, 4),
)
@settings(deadline=None)
def test_products_are_those_of_points_and_means(seed: int, longest: int, size: int, k: int) -> None:
    """With the Gram matrix (few points) and without it (many): the same as distances computed one by one."""
    points, weights = sets(seed, longest, size)
    these = PointSets(points, weights)
    assert (these.gram is not None) == (3 * longest <= size)
    clusters = torch.randint(0, k, weights.shape, generator=torch.Generator().manual_seed(seed))
    shares, sizes = shares_of(clusters, weights, k)
    picks = torch.randint(0, longest, (3, 2), generator=torch.Generator().manual_seed(seed))
    to_points = these.distances(these.with_points(picks), these.squares.gather(1, picks))
    for g in range(3):
        one, mass = points[g].double(), weights[g].double()
        means = torch.stack(
            [
                (one * (mass * (clusters[g] == label))[:, None]).sum(0)
                / max(1e-30, float(mass[clusters[g] == label].sum()))
                for label in range(k)
            ]
        )
        torch.testing.assert_close(these.means(shares)[g].double(), means, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(
            to_points[g].double(), torch.cdist(one[picks[g]], one).square(), rtol=1e-3, atol=1e-2
        )
        torch.testing.assert_close(
            these.gaps(shares)[g].double(), torch.cdist(means, means).square(), rtol=1e-3, atol=1e-2
        )
        own = (one - means[clusters[g]]).square().sum(dim=1)
        torch.testing.assert_close(
            these.own_distances(shares, clusters)[g].double(), own, rtol=1e-3, atol=1e-2
        )
        assert sizes[g].tolist() == [float(mass[clusters[g] == label].sum()) for label in range(k)]


@given(
    seed=st.integers(0, 1000),
    k=st.integers(1, 5),
    longest=st.integers(2, 12),
    size=st.sampled_from([3, 40]),
)
@settings(deadline=None)
def test_lloyd_is_lloyd(seed: int, k: int, longest: int, size: int) -> None:
    """Step by step the same as a loop over points and clusters."""
    points, weights = sets(seed, longest, size)
    clusters = torch.randint(0, k, weights.shape, generator=torch.Generator().manual_seed(seed + 1))
    shares, sizes = shares_of(clusters, weights, k)
    found_all = lloyd(PointSets(points, weights), shares, sizes > 0)
    for one, mass, labels, found in zip(points.double(), weights, clusters, found_all, strict=True):
        real = mass > 0
        centroids = torch.full((k, size), torch.inf, dtype=torch.float64)
        for _ in range(25):
            for label in range(k):
                chosen = real & (labels == label)
                if chosen.any():
                    centroids[label] = (one[chosen] * mass[chosen, None]).sum(dim=0) / mass[
                        chosen
                    ].sum()
            labels = torch.cdist(one, centroids.nan_to_num(posinf=1e6)).argmin(dim=1)
        assert torch.equal(labels[real], found[real])


def test_weights_are_repetitions() -> None:
    points = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([[1.0, 2.0, 3.0, 1.0, 1.0, 2.0]])
    times = weights[0].long()
    start = torch.tensor([[0, 1, 2, 0, 1, 2]])
    results = []
    for these, clusters in (
        (PointSets(points, weights), start),
        (
            PointSets(points[0].repeat_interleave(times, dim=0)[None], torch.ones(1, 10)),
            start[0].repeat_interleave(times)[None],
        ),
    ):
        shares, sizes = shares_of(clusters, these.weights, 3)
        found = lloyd(these, shares, sizes > 0)
        results.append((found, these.means(shares_of(found, these.weights, 3)[0])))
    (few, few_means), (many, many_means) = results
    assert torch.equal(few[0].repeat_interleave(times), many[0])
    torch.testing.assert_close(few_means, many_means)


@pytest.mark.parametrize("size", [8, 400])
def test_greedy_starts_find_every_group_and_never_a_gap(size: int) -> None:
    points = torch.stack(
        [torch.cat([blobs(seed, 20, 5, size, 0.1), torch.zeros(5, size)]) for seed in range(20)]
    )
    weights = (torch.arange(105) < 100).float().expand(20, -1)
    draws = torch.rand(20, 5, num_trials(5), generator=torch.Generator().manual_seed(0))
    groups = greedy_starts(PointSets(points, weights), 5, draws) // 20
    assert all(sorted(row) == [0, 1, 2, 3, 4] for row in groups.tolist())
    clusters = kmeans(PointSets(points, weights), 5, draws)
    assert all(len(set(row[:100].view(5, 20)[:, 0].tolist())) == 5 for row in clusters)


@given(seed=st.integers(0, 1000), k=st.integers(2, 6))
@settings(deadline=None)
def test_merging_is_wards(seed: int, k: int) -> None:
    """The cheapest pair at each step, found anew from means; the costs add up to the error of one cluster."""
    generator = torch.Generator().manual_seed(seed)
    centroids, sizes = (
        torch.randn(2, k, 3, generator=generator),
        torch.randint(1, 5, (2, k), generator=generator).float(),
    )
    sizes[0, 0] = 0  # an empty cluster takes no part
    costs, labels = (
        merge_costs(torch.cdist(centroids, centroids).square(), sizes),
        torch.arange(k).expand(2, -1),
    )
    running, total = sizes.clone(), torch.zeros(2)
    for _ in range(k - 1):
        before = labels
        cost, labels = merge_cheapest(costs, running, labels)
        for row in range(2):
            alive = sizes[row] > 0
            if not torch.isfinite(cost[row]):
                assert torch.equal(before[row], labels[row])
                continue
            total[row] += cost[row]
            options = sorted(set(before[row][alive].tolist()))
            now = slow_error(centroids[row], sizes[row], before[row])
            every = [
                slow_error(
                    centroids[row], sizes[row], torch.where(before[row] == b, a, before[row])
                )
                - now
                for a in options
                for b in options
                if a < b
            ]
            assert float(cost[row]) == pytest.approx(min(every), rel=1e-3, abs=1e-4)
            assert len(set(labels[row][alive].tolist())) == len(options) - 1
    for row in range(2):
        assert float(total[row]) == pytest.approx(
            slow_error(centroids[row], sizes[row], torch.zeros(k)), rel=1e-3, abs=1e-3
        )


def test_the_price_is_akaikes_and_the_senses() -> None:
    errors, numbers = torch.tensor([[0.0, 4.0, 18.0]]), torch.tensor([[10, 2, 1]])
    found = prices(errors, numbers, torch.tensor([10.0]), floor=1, sense_cost=0.5)
    variance = 18 / 9
    expected = [torch.inf, 4 * 12 / 8 + 0.5 * variance * 2, 18 * 11 / 9 + 0.5 * variance]
    torch.testing.assert_close(found, torch.tensor([expected]))
    assert prices(errors, numbers, torch.tensor([10.0]), floor=10, sense_cost=0.5).argmin() == 0


def number_of_senses(states: Tensor, **settings: Any) -> int:
    return len(
        cluster(
            points_of(states, np.zeros(len(states), np.int64)),
            spec(clustering="adaptive", **settings),
            0,
            CPU,
        ).owners
    )


@pytest.mark.parametrize("centres", [1, 2, 3, 5])
def test_adaptive_finds_the_number_of_groups(centres: int) -> None:
    assert number_of_senses(blobs(centres, 12, centres, 64, 1.0), num_senses=8) == centres


@given(
    seed=st.integers(0, 200),
    number=st.integers(1, 30),
    floor=st.integers(1, 4),
    ceiling=st.integers(4, 8),
)
@settings(deadline=None)
def test_floor_and_ceiling_hold_and_a_price_never_adds_senses(
    seed: int, number: int, floor: int, ceiling: int
) -> None:
    states = torch.randn(number, 8, generator=torch.Generator().manual_seed(seed))
    counts = [
        number_of_senses(states, num_senses=ceiling, min_senses=floor, sense_cost=cost)
        for cost in (0.0, 0.5, 2.0, 50.0)
    ]
    assert all(min(floor, number) <= count <= min(ceiling, number) for count in counts)
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == min(floor, number)


def test_choose_leaves_single_clusters_alone() -> None:
    gaps, sizes = torch.zeros(1, 3, 3), torch.tensor([[5.0, 0.0, 0.0]])
    assert choose(gaps, sizes, torch.tensor([3.0]), 1, 1.0)[0, 0] == 0


def test_fixed_keeps_few_vectors_as_they_are_and_others_get_k() -> None:
    tokens = np.repeat([3, 5, 9], [20, 3, 30])
    states = torch.randn(53, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    senses = cluster(points_of(states, tokens), spec(clustering="fixed"), 0, CPU)
    assert np.bincount(senses.owners)[[3, 5, 9]].tolist() == [4, 3, 4]
    assert senses.counts.sum() == 53
    assert torch.equal(
        senses.centroids[torch.from_numpy(senses.owners == 5)], states[20:23].float()
    )


@given(seed=st.integers(0, 100), clustering=st.sampled_from(["fixed", "adaptive"]))
@settings(deadline=None, max_examples=30)
def test_what_is_told_of_each_sense_is_so(seed: int, clustering: str) -> None:
    """Centroid, count, spread and nearest members fit together, and no two senses' members overlap."""
    generator = np.random.default_rng(seed)
    tokens = np.sort(generator.integers(0, 6, 60))
    states = torch.randn(60, 8, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)
    senses = cluster(
        points_of(states, tokens),
        spec(clustering=clustering, contexts_per_sense=60, sense_cost=0.1),
        0,
        CPU,
    )
    assert senses.spreads is not None
    assert sorted(np.concatenate(senses.sources).tolist()) == list(range(60))
    for owner, centroid, count, spread, members in zip(
        senses.owners, senses.centroids, senses.counts, senses.spreads, senses.sources, strict=True
    ):
        vectors = states[members].double()
        assert len(members) == count
        assert (tokens[members] == owner).all()
        torch.testing.assert_close(centroid.double(), vectors.mean(dim=0), rtol=1e-4, atol=1e-4)
        distances = (vectors - centroid).square().mean(dim=1)
        assert spread == pytest.approx(float(distances.mean()), rel=1e-3, abs=1e-5)
        assert (distances.diff() > -1e-4).all()


def test_a_token_does_not_depend_on_the_others() -> None:
    tokens = np.repeat(np.arange(30), 17)
    states = torch.randn(len(tokens), 8, generator=torch.Generator().manual_seed(0))
    whole = cluster(points_of(states, tokens), spec(), 0, CPU)
    for token in (0, 13):
        alone = cluster(points_of(states[tokens == token], tokens[tokens == token]), spec(), 0, CPU)
        torch.testing.assert_close(
            whole.centroids[torch.from_numpy(whole.owners == token)], alone.centroids
        )


def test_old_senses_weigh_what_they_stand_for() -> None:
    """Clustering a sense of 90 vectors with 10 new ones near it gives one sense of 100 with the mean and spread of them all."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(100, 16, generator=generator)
    old, new = states[:90].mean(dim=0, keepdim=True), states[90:]
    spread = float((states[:90] - old).square().mean())
    points = Points(
        np.zeros(11, np.int64),
        torch.cat([old, new]),
        np.array([90, *[1] * 10]),
        np.array([spread, *[0.0] * 10], np.float32),
        np.array([-1, *range(10)]),
    )
    senses: Senses = cluster(points, spec(clustering="adaptive"), 0, CPU)
    assert senses.counts.tolist() == [100]
    assert senses.spreads is not None
    torch.testing.assert_close(senses.centroids[0], states.mean(dim=0), rtol=1e-3, atol=1e-3)
    assert senses.spreads[0] == pytest.approx(
        float((states - states.mean(dim=0)).square().mean()), rel=1e-3
    )

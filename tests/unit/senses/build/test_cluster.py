"""Clustering the vectors of tokens, and the senses of a refreshed dictionary as points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_ds.senses.build.cluster import Points, cluster
from tests.unit.senses.build.points import CPU, points_of, spec


def test_fixed_keeps_few_vectors_as_they_are_and_other_tokens_get_k() -> None:
    tokens = np.repeat([3, 5, 9], [20, 3, 30])
    states = torch.randn(53, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    senses = cluster(points_of(states, tokens), spec(clustering="fixed"), 0, CPU)
    assert np.bincount(senses.owners)[[3, 5, 9]].tolist() == [4, 3, 4]
    assert senses.counts.sum() == 53
    of_token_5 = senses.centroids[torch.from_numpy(senses.owners == 5)]
    assert torch.equal(of_token_5, states[20:23].float())


@given(seed=st.integers(0, 100), clustering=st.sampled_from(["fixed", "adaptive"]))
@settings(max_examples=30)
def test_a_sense_agrees_with_its_members(seed: int, clustering: str) -> None:
    """Centroid, count, spread and nearest members agree, and no two senses share a member."""
    generator = np.random.default_rng(seed)
    tokens = np.sort(generator.integers(0, 6, 60))
    states = torch.randn(60, 8, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)
    settings_of_all = spec(clustering=clustering, contexts_per_sense=60, sense_cost=0.1)
    senses = cluster(points_of(states, tokens), settings_of_all, 0, CPU)
    assert senses.spreads is not None
    assert sorted(np.concatenate(senses.sources).tolist()) == list(range(60))
    for row, members in enumerate(senses.sources):
        vectors, centroid = states[members].double(), senses.centroids[row].double()
        assert len(members) == senses.counts[row]
        assert (tokens[members] == senses.owners[row]).all()
        torch.testing.assert_close(centroid, vectors.mean(dim=0), rtol=1e-4, atol=1e-4)
        distances = (vectors - centroid).square().mean(dim=1)
        spread = float(distances.mean())
        assert senses.spreads[row] == pytest.approx(spread, rel=1e-3, abs=1e-5)
        assert (distances.diff() > -1e-4).all()


def test_a_token_does_not_depend_on_the_others() -> None:
    tokens = np.repeat(np.arange(30), 17)
    states = torch.randn(len(tokens), 8, generator=torch.Generator().manual_seed(0))
    together = cluster(points_of(states, tokens), spec(), 0, CPU)
    for token in (0, 13):
        of_token = tokens == token
        alone = cluster(points_of(states[of_token], tokens[of_token]), spec(), 0, CPU)
        among_others = together.centroids[torch.from_numpy(together.owners == token)]
        torch.testing.assert_close(among_others, alone.centroids)


def test_an_old_sense_weighs_as_much_as_its_vectors() -> None:
    """A sense of 90 vectors and 10 new ones near it give one sense with the mean of all 100."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(100, 16, generator=generator)
    old, new = states[:90].mean(dim=0, keepdim=True), states[90:]
    old_spread = float((states[:90] - old).square().mean())
    points = Points(
        tokens=np.zeros(11, np.int64),
        states=torch.cat([old, new]),
        counts=np.array([90, *[1] * 10]),
        spreads=np.array([old_spread, *[0.0] * 10], np.float32),
        sources=np.array([-1, *range(10)]),
    )
    senses = cluster(points, spec(clustering="adaptive"), 0, CPU)
    assert senses.counts.tolist() == [100]
    assert senses.spreads is not None
    mean = states.mean(dim=0)
    torch.testing.assert_close(senses.centroids[0], mean, rtol=1e-3, atol=1e-3)
    spread = float((states - mean).square().mean())
    assert senses.spreads[0] == pytest.approx(spread, rel=1e-3)

"""Differences between groups of runs: their size, their intervals, and what these promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.random import Generator, default_rng

from dskd_ds.evaluation.paired import Verdict, mean_and_error, paired_difference

NUM_CLUSTERS, CLUSTER_ITEMS = 100, 5
CLUSTERS = np.repeat(np.arange(NUM_CLUSTERS), CLUSTER_ITEMS)
NUM_ITEMS = len(CLUSTERS)


def made_runs(
    random: Generator,
    *,
    num_seeds: int,
    effect: float,
    seed_sd: float,
    item_sd: float,
    pair_sd: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Two groups [S, N] on the same, skewed items; the second's true mean is higher by `effect`."""
    difficulty = random.exponential(1, NUM_ITEMS)
    # The effect differs from item to item, alike for the items of one cluster.
    of_cluster = (random.exponential(item_sd, NUM_CLUSTERS) - item_sd)[CLUSTERS]
    of_item = of_cluster + 0.5 * item_sd * random.standard_normal(NUM_ITEMS)

    def group(shift: float | np.ndarray) -> np.ndarray:
        of_seed = seed_sd * random.standard_normal((num_seeds, 1))
        noise = pair_sd * random.standard_normal((num_seeds, NUM_ITEMS))
        return difficulty + shift + of_seed + noise

    return group(0.0), group(effect + of_item)


def coverage(repetitions: int, *, paired: bool, **settings: float) -> float:
    random = default_rng(0)
    hits = 0
    for _ in range(repetitions):
        first, second = made_runs(random, effect=0.1, **settings)
        found = paired_difference(first, second, CLUSTERS, seeds_are_paired=paired)
        hits += found.low <= 0.1 <= found.high
    return hits / repetitions


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(
    ("seed_sd", "item_sd", "pair_sd"), [(0.02, 0.3, 0.3), (0.05, 0.1, 0.1), (0.01, 0.2, 1.0)]
)
def test_95_of_100_intervals_hold_the_truth(
    paired: bool, seed_sd: float, item_sd: float, pair_sd: float
) -> None:
    share = coverage(
        2000, paired=paired, num_seeds=5, seed_sd=seed_sd, item_sd=item_sd, pair_sd=pair_sd
    )
    assert 0.93 <= share <= 0.98


@pytest.mark.parametrize("num_seeds", [2, 3])
def test_intervals_of_few_seeds_are_rather_too_wide(num_seeds: int) -> None:
    share = coverage(
        1000, paired=False, num_seeds=num_seeds, seed_sd=0.05, item_sd=0.1, pair_sd=0.1
    )
    assert share >= 0.94


def test_intervals_of_single_models_hold_the_truth_about_these_models() -> None:
    share = coverage(1000, paired=False, num_seeds=1, seed_sd=0.0, item_sd=0.3, pair_sd=0.0)
    assert 0.92 <= share <= 0.97


def test_the_same_setting_is_not_called_different() -> None:
    random = default_rng(1)
    verdicts = []
    for _ in range(100):
        first, second = made_runs(
            random, num_seeds=3, effect=0.0, seed_sd=0.02, item_sd=0.0, pair_sd=0.5
        )
        verdicts.append(paired_difference(first, second, CLUSTERS).verdict)
    assert verdicts.count(Verdict.UNCLEAR) >= 95


def test_a_noisy_copy_is_told_from_its_original() -> None:
    random = default_rng(2)
    original = random.exponential(1, (1, NUM_ITEMS))
    copy = original + 0.02 + 0.1 * random.standard_normal((1, NUM_ITEMS))
    assert paired_difference(original, copy, CLUSTERS).verdict is Verdict.HIGHER
    assert paired_difference(copy, original, CLUSTERS).verdict is Verdict.LOWER
    assert paired_difference(original, original, CLUSTERS).verdict is Verdict.UNCLEAR


def test_the_mean_of_clusters_is_that_of_a_slow_bootstrap() -> None:
    """The standard error equals the spread of the mean when whole clusters are drawn again."""
    random = default_rng(3)
    sizes = random.integers(1, 20, 200)
    clusters = np.repeat(np.arange(200), sizes)
    values = random.standard_normal(200)[clusters] + random.standard_normal(len(clusters))
    mean, error = mean_and_error(values, clusters)
    assert mean == pytest.approx(values.mean())
    members = [values[clusters == cluster] for cluster in range(200)]
    means = []
    for _ in range(2000):
        drawn = [members[cluster] for cluster in random.integers(0, 200, 200)]
        means.append(np.concatenate(drawn).mean())
    assert error == pytest.approx(np.std(means), rel=0.06)


def test_seeds_that_agree_by_chance_do_not_make_the_items_certain() -> None:
    """Two seeds with the same mean difference, which comes from other questions in each."""
    first = np.zeros((2, 100))
    second = np.zeros((2, 100))
    second[0, 3] = second[1, 71] = 1.0  # one more right answer each
    difference = paired_difference(first, second, np.arange(100), seeds_are_paired=True)
    models = mean_and_error(second.mean(axis=0), np.arange(100))[1]
    assert difference.mean == pytest.approx(0.01)
    assert difference.high - difference.mean == pytest.approx(1.984 * models, rel=1e-3)
    assert difference.verdict is Verdict.UNCLEAR


def test_rounding_shows_nothing() -> None:
    """Half of the runs were read from a study's results, which keep 7 decimals."""
    first = np.full((2, NUM_ITEMS), 1 / 3)
    difference = paired_difference(first, first.round(7), CLUSTERS, seeds_are_paired=True)
    assert difference.high < 0
    assert difference.verdict is Verdict.UNCLEAR


def test_one_cluster_says_nothing_about_others() -> None:
    _, error = mean_and_error(np.array([1.0, 2.0]), np.array([0, 0]))
    assert math.isinf(error)


def test_needed_numbers_are_those_at_which_the_difference_shows() -> None:
    random = default_rng(4)
    first, second = made_runs(
        random, num_seeds=3, effect=0.02, seed_sd=0.02, item_sd=0.02, pair_sd=0.1
    )
    found = paired_difference(first, second, CLUSTERS)
    needed = found.needed_seeds
    assert needed is not None
    assert found.seed_error is not None
    for count, shows in ((needed, True), (needed - 1, False)):
        seed_variance = found.seed_error**2 * found.num_seeds / count
        error = math.sqrt(found.item_error**2 + seed_variance)
        assert (abs(found.mean) >= 1.96 * error) is shows


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_one_cluster_says_nothing_about_how_many_are_needed(num_seeds: int) -> None:
    random = default_rng(5)
    first, second = random.standard_normal((2, num_seeds, 3))
    found = paired_difference(first, second + 100, np.zeros(3, np.int64))
    assert math.isinf(found.item_error)
    assert found.verdict is Verdict.UNCLEAR
    assert found.needed_clusters is None
    assert found.needed_seeds is None

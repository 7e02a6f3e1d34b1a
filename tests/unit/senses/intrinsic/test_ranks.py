"""Rank statistics, against slow versions and values computed by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dskd_ds.senses.intrinsic.ranks import Bools, Floats, auc, auc_error, partial_spearman, spearman


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40))
def test_auc_is_the_share_of_pairs_in_order(rows: list[tuple[int, bool]]) -> None:
    scores = np.array([float(score) for score, _ in rows])
    labels = np.array([label for _, label in rows])
    in_order = [
        (positive > negative) + 0.5 * (positive == negative)
        for positive, negative in itertools.product(scores[labels], scores[~labels])
    ]
    expected = np.mean(in_order) if in_order else float("nan")
    assert auc(scores, labels) == pytest.approx(expected, nan_ok=True)


def test_auc_error_is_the_deviation_over_many_samples() -> None:
    generator = np.random.default_rng(0)

    def sample() -> tuple[Floats, Bools, NDArray[np.int64]]:
        labels = np.arange(200) % 2 == 0
        return labels + generator.normal(size=200), labels, np.arange(200) // 2

    areas = [auc(*sample()[:2]) for _ in range(300)]
    errors = [auc_error(*sample()) for _ in range(5)]
    assert np.mean(errors) == pytest.approx(np.std(areas), rel=0.25)


def test_spearman_of_monotonic_functions() -> None:
    values = np.array([3.0, 1.0, 2.0, 2.0])
    assert spearman(values, np.exp(values)) == pytest.approx(1.0)
    assert spearman(values, -values) == pytest.approx(-1.0)
    assert np.isnan(spearman(values, np.ones(4)))


def test_spearman_by_hand() -> None:
    # The ranks are (4, 1, 2.5, 2.5) and (1, 2, 3, 4). About their means, the sum of products is
    # -1.5, the sums of squares are 4.5 and 5.
    found = spearman(np.array([3.0, 1.0, 2.0, 2.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert found == pytest.approx(-1.5 / np.sqrt(4.5 * 5))


def test_partial_spearman_is_the_correlation_of_what_the_third_leaves_over() -> None:
    generator = np.random.default_rng(0)
    given = generator.normal(size=200)
    left, right = given + generator.normal(size=(2, 200))
    ranks = [values.argsort().argsort().astype(float) for values in (left, right, given)]
    lines = [np.poly1d(np.polyfit(ranks[2], values, 1))(ranks[2]) for values in ranks[:2]]
    left_over = [values - line for values, line in zip(ranks[:2], lines, strict=True)]
    expected = np.corrcoef(*left_over)[0, 1]
    assert partial_spearman(left, right, given) == pytest.approx(expected)
    assert spearman(left, right) > 0.3 > abs(expected)
    assert np.isnan(partial_spearman(given, right, given))

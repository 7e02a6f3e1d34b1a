"""Rank statistics: area under the ROC curve with its standard error, Spearman's correlations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

RESAMPLES = 300
"""Bootstrap samples; the standard error that they give is itself accurate to about 4 %."""


def average_ranks(values: Floats) -> Floats:
    """Return the rank (from 1) of each value, [N] -> [N]; equal values share their mean rank."""
    _, distinct_index, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(counts) - (counts - 1) / 2
    ranks: Floats = mean_ranks[distinct_index]
    return ranks


def auc(scores: Floats, labels: Bools) -> float:
    """Return the probability that a positive scores above a negative; ties count half.

    scores, labels: [N]. Returns NaN if one class is missing.
    Source: the rank sum of Mann and Whitney (1947).
    """
    num_positives = int(labels.sum())
    num_negatives = len(labels) - num_positives
    if not num_positives or not num_negatives:
        return float("nan")
    rank_sum = average_ranks(scores)[labels].sum()
    smallest_rank_sum = num_positives * (num_positives + 1) / 2
    return float((rank_sum - smallest_rank_sum) / (num_positives * num_negatives))


def auc_error(scores: Floats, labels: Bools, groups: NDArray[np.int64]) -> float:
    """Return the standard error of `auc` by the bootstrap. scores, labels, groups: [N].

    Whole groups are drawn with replacement, because the pairs of one lemma are not independent.
    The draws are the same in every call. Returns NaN if no draw has both classes.
    """
    names, group_index = np.unique(groups, return_inverse=True)
    if not len(names):
        return float("nan")
    members = [np.flatnonzero(group_index == i) for i in range(len(names))]
    generator = np.random.default_rng(0)
    areas = []
    for _ in range(RESAMPLES):
        drawn = generator.integers(0, len(members), len(members))
        rows = np.concatenate([members[i] for i in drawn])
        areas.append(auc(scores[rows], labels[rows]))
    return float("nan") if np.isnan(areas).all() else float(np.nanstd(areas))


def spearman(left: Floats, right: Floats) -> float:
    """Return the rank correlation of two [N]; NaN if N < 3 or if one of them is constant."""
    if len(left) < 3 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return float("nan")
    return float(np.corrcoef(average_ranks(left), average_ranks(right))[0, 1])


def partial_spearman(left: Floats, right: Floats, given: Floats) -> float:
    """Return the rank correlation of two [N] at equal values of a third [N].

    NaN if N < 4, if one of them is constant, or if `given` orders one of them completely.
    Source: the partial correlation coefficient, of ranks.
    """
    both, of_left, of_right = spearman(left, right), spearman(left, given), spearman(right, given)
    left_over = (1 - of_left**2) * (1 - of_right**2)
    if len(left) < 4 or not left_over > 1e-12:
        return float("nan")
    return float((both - of_left * of_right) / np.sqrt(left_over))

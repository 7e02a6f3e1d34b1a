"""Statistics of ranks: area under the ROC curve, Spearman's correlation, and how sure an area is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 300
"""Bootstrap draws; the standard error they give is itself good to about 4 %."""


def average_ranks(values: Floats) -> Floats:
    """[N] -> [N] ranks from 1; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def auc(scores: Floats, labels: NDArray[np.bool_]) -> float:
    """How likely a positive scores above a negative, ties counting half. scores, labels [N]; NaN if one class is missing.

    Source: the rank sum of Mann and Whitney (1947).
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    rank_sum = average_ranks(scores)[labels].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def auc_error(scores: Floats, labels: NDArray[np.bool_], groups: NDArray[np.int64]) -> float:
    """Standard error of `auc`, by drawing whole groups (the pairs of a lemma hang together) with replacement; the draws are fixed."""
    names, place = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(place == i) for i in range(len(names))]
    generator = np.random.default_rng(0)
    areas = []
    for _ in range(RESAMPLES if members else 0):
        rows = np.concatenate(
            [members[i] for i in generator.integers(0, len(members), len(members))]
        )
        areas.append(auc(scores[rows], labels[rows]))
    return float(np.nanstd(areas)) if areas and not np.isnan(areas).all() else float("nan")


def spearman(left: Floats, right: Floats) -> float:
    """Rank correlation of two [N]; NaN below 3 values or where one of them is constant."""
    if len(left) < 3 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return float("nan")
    return float(np.corrcoef(average_ranks(left), average_ranks(right))[0, 1])

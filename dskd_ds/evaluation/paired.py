"""Standard errors of means, and differences between two groups of runs that are paired by item.

Two things vary: the items that happened to be in the test set, and the seeds that the runs happened
to have. A mean over items alone calls two seeds of one setting different; so a claim about settings
needs the spread between seeds as well.

An interval is Student's t for each of the two, added in squares (docs/method.md, "Comparing two
settings"). With 2 to 5 seeds a bootstrap over seeds is too narrow: it resamples the few means that
there are, and cannot know how far these lie from their expectation.

Source of the variance of a mean over clusters: Miller, arXiv 2411.00640, section 2.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from dskd_ds.evaluation.items import Floats, Ints

CONFIDENCE = 0.95
"""Share of intervals that contain the true difference."""
ROUNDING = 1e-6
"""A difference below this is none: scores are float32, and a study's results keep 7 decimals."""


class Verdict(StrEnum):
    """What an interval says about the second group."""

    HIGHER = "higher"
    LOWER = "lower"
    UNCLEAR = "no difference shown"


@dataclass(frozen=True)
class Difference:
    """The second group's mean minus the first one's."""

    mean: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""
    item_error: float
    """The part of the error that more items reduce."""
    seed_error: float | None
    """The part of the error that more seeds reduce. None: a group has one seed, so it is
    unknown, and the interval only tells whether these very models differ."""
    num_seeds: int
    """Runs in the smaller group."""
    num_clusters: int

    @property
    def verdict(self) -> Verdict:
        """Whether the interval excludes 0, and on which side."""
        if abs(self.mean) < ROUNDING:
            return Verdict.UNCLEAR
        if self.low > 0:
            return Verdict.HIGHER
        return Verdict.LOWER if self.high < 0 else Verdict.UNCLEAR

    @property
    def needed_seeds(self) -> int | None:
        """Seeds per group that would show a difference of this size; None if no number would.

        At these items, with normal quantiles: an estimate for planning.
        """
        if self.seed_error is None:
            return None
        room = (self.mean / 1.96) ** 2 - self.item_error**2
        if room <= 0:
            return None
        return max(2, math.ceil(self.num_seeds * self.seed_error**2 / room))

    @property
    def needed_clusters(self) -> int | None:
        """Documents or questions that would show a difference of this size, with these seeds.

        None if no number would, because seeds vary too much, or if there is only one cluster.
        """
        room = (self.mean / 1.96) ** 2 - (self.seed_error or 0.0) ** 2
        if room <= 0 or math.isinf(self.item_error):
            return None
        return max(2, math.ceil(self.num_clusters * self.item_error**2 / room))


def mean_and_error(values: Floats, clusters: Ints) -> tuple[float, float]:
    """Return the mean of values [N] and its standard error; infinite with less than 2 clusters.

    clusters: [N], 0 ... C - 1. Items of one cluster may depend on each other in any way.
    """
    mean = float(values.mean())
    return mean, math.sqrt(_cluster_variance(values - mean, clusters))


def _cluster_variance(residuals: Floats, clusters: Ints) -> float:
    """Return the variance of a mean over items from its residuals [N]."""
    totals = np.bincount(clusters, weights=residuals)
    num_clusters = len(totals)
    if num_clusters < 2:
        return math.inf
    correction = num_clusters / (num_clusters - 1)
    return float(correction * np.square(totals).sum() / len(residuals) ** 2)


def paired_difference(
    first: Floats, second: Floats, clusters: Ints, *, seeds_are_paired: bool = False
) -> Difference:
    """Return the difference of two groups of runs over the same items.

    first, second: [S1, N] and [S2, N], one row per run. clusters: see `mean_and_error`.
    seeds_are_paired: row i of both groups has the same seed, and so the same text in one order.
    """
    difference = second.mean(axis=0) - first.mean(axis=0)
    mean = float(difference.mean())
    num_clusters = int(clusters.max()) + 1
    item_variance = _cluster_variance(difference - mean, clusters)
    item_quantile = _t_quantile(num_clusters - 1)
    # What is said of settings is never surer than what is said of these very models: the spread of
    # two or three seeds can be far too small, or 0, by chance.
    least_half_squared = item_quantile**2 * item_variance
    seeds: _SeedSpread | None = None
    # Without a second seed the spread of seeds is unknown.
    if min(len(first), len(second)) >= 2:
        parts = [second - first] if seeds_are_paired else [first, second]
        seeds = _seed_spread(parts, clusters)
        # The noise of single pairs of seed and item is part of both variances: counted once. One
        # cluster says nothing about others: both are infinite then, and have no difference.
        if math.isfinite(item_variance):
            item_variance = max(0.0, item_variance - seeds.pair_variance)
    half_squared = item_quantile**2 * item_variance
    if seeds:
        half_squared += _t_quantile(seeds.freedom) ** 2 * seeds.variance
    half = math.sqrt(max(half_squared, least_half_squared))
    return Difference(
        mean=mean,
        low=mean - half,
        high=mean + half,
        item_error=math.sqrt(item_variance),
        seed_error=math.sqrt(seeds.variance) if seeds else None,
        num_seeds=min(len(first), len(second)),
        num_clusters=num_clusters,
    )


def _t_quantile(freedom: float) -> float:
    """Return how many standard errors half an interval has."""
    from scipy import stats

    return float(stats.t.ppf((1 + CONFIDENCE) / 2, max(freedom, 1)))


@dataclass(frozen=True)
class _SeedSpread:
    """How much a difference varies because the runs have other seeds."""

    variance: float
    """Variance of the difference over seeds, with the noise of single pairs of seed and item."""
    pair_variance: float
    """The part of `variance` that is this noise."""
    freedom: float
    """Degrees of freedom of `variance`."""


def _seed_spread(parts: list[Floats], clusters: Ints) -> _SeedSpread:
    """Return the spread of a sum of independent means. parts: [S, N] each, one row per seed."""
    variances = [float(rows.mean(axis=1).var(ddof=1)) / len(rows) for rows in parts]
    total = sum(variances)
    # Welch's degrees of freedom; of one part, these are S - 1.
    weights = [
        variance**2 / (len(rows) - 1) for variance, rows in zip(variances, parts, strict=True)
    ]
    freedom = total**2 / sum(weights) if total > 0 else min(len(rows) for rows in parts) - 1
    return _SeedSpread(
        variance=total,
        pair_variance=sum(_pair_variance(rows, clusters) for rows in parts),
        freedom=freedom,
    )


def _pair_variance(rows: Floats, clusters: Ints) -> float:
    """Return the variance of the mean over rows [S, N] that comes from single pairs of both."""
    num_rows = len(rows)
    residuals = rows - rows.mean(axis=0) - rows.mean(axis=1, keepdims=True) + rows.mean()
    total = sum(_cluster_variance(row, clusters) for row in residuals)
    return total / (num_rows * (num_rows - 1))

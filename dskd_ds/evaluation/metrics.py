"""The metrics that models are compared by: their names, units and directions."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A number that is measured per item; a model's score is its mean over the items."""

    key: str
    """Column of the items file."""
    label: str
    """Name in tables."""
    lower_is_better: bool
    is_log: bool = False
    """Whether the score is shown as exp(mean), and a difference as the ratio exp(difference)."""

    def score(self, mean: float) -> float:
        """Return what is shown for a mean over items."""
        return math.exp(mean) if self.is_log else mean

    def error(self, mean: float, standard_error: float) -> float:
        """Return the standard error of what is shown, to first order."""
        return math.exp(mean) * standard_error if self.is_log else standard_error


METRICS = (
    Metric("cross_entropy", "perplexity", lower_is_better=True, is_log=True),
    Metric("kl", "KL to the teacher (nats)", lower_is_better=True),
    Metric("accuracy", "accuracy by label probability", lower_is_better=False),
    Metric("accuracy_macro", "the same, mean of the topics", lower_is_better=False),
    Metric("margin", "margin of the right label (nats)", lower_is_better=False),
    Metric("brier", "Brier score", lower_is_better=True),
    Metric("exact", "answer equals the label", lower_is_better=False),
    Metric("exact_macro", "the same, mean of the topics", lower_is_better=False),
    Metric("f1", "F1", lower_is_better=False),
    Metric("auc", "AUC of the states' cosine", lower_is_better=False),
    Metric("spearman", "rank correlation with ratings", lower_is_better=False),
)
"""Every metric that an items file may have, in the order of tables."""


def metric_of(key: str) -> Metric:
    """Return the metric of a column. Raises KeyError if there is none."""
    return {metric.key: metric for metric in METRICS}[key]

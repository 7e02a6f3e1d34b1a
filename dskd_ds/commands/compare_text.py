"""A comparison in words, as a printed table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dskd_ds.evaluation.groups import Comparison


def print_table(comparisons: Sequence[Comparison]) -> None:
    """Print one paragraph per task and group, and one row per metric."""
    heading: tuple[str, str] | None = None
    for comparison in comparisons:
        if (comparison.task, comparison.group) != heading:
            heading = (comparison.task, comparison.group)
            print(f"\n{comparison.task}: {comparison.group} against {comparison.reference}")
        print(f"  {comparison.metric.label:<28}{scores_text(comparison)}")
        print(f"  {'':<28}{comparison.group}: {verdict_text(comparison)}")


def scores_text(comparison: Comparison) -> str:
    """Return both scores and the difference with its interval, as text."""
    metric = comparison.metric
    first = metric.score(comparison.reference_mean)
    second = metric.score(comparison.group_mean)
    return f"{first:.4g} -> {second:.4g}   {difference_text(comparison)}"


def difference_text(comparison: Comparison) -> str:
    """Return the difference and its 95 % interval; of perplexities, their ratio."""
    found, metric = comparison.difference, comparison.metric
    low, mean, high = (metric.score(value) for value in (found.low, found.mean, found.high))
    if metric.is_log:
        return f"x {mean:.4f} [{low:.4f}, {high:.4f}]"
    return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"


def verdict_text(comparison: Comparison) -> str:
    """Return the verdict, what it is about, and what would show a difference of this size."""
    found = comparison.difference
    if comparison.verdict != "no difference shown":
        return f"{comparison.verdict}; {comparison.about}"
    text = comparison.verdict
    ways: list[str] = []
    if found.needed_seeds is not None and found.needed_seeds > found.num_seeds:
        ways.append(f"{found.needed_seeds} seeds of each")
    if found.needed_clusters is not None and found.needed_clusters > found.num_clusters:
        ways.append(f"{found.needed_clusters} documents or questions")
    if not ways:
        return text
    return f"{text}; about {' or '.join(ways)} would show a difference of this size"


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain values."""
    found, metric = comparison.difference, comparison.metric
    return {
        "task": comparison.task,
        "metric": metric.key,
        "reference": comparison.reference,
        "group": comparison.group,
        "reference_mean": comparison.reference_mean,
        "group_mean": comparison.group_mean,
        "difference": found.mean,
        "low": found.low,
        "high": found.high,
        "item_error": found.item_error,
        "seed_error": found.seed_error,
        "num_seeds": found.num_seeds,
        "num_clusters": found.num_clusters,
        "needed_seeds": found.needed_seeds,
        "needed_clusters": found.needed_clusters,
        "verdict": comparison.verdict,
        "about": comparison.about,
    }

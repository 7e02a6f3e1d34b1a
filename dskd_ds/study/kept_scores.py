"""The scores of a run in its result, so that a study goes on where its run directories are gone.

A result keeps the mean of each cluster (a document, a question, a lemma) instead of each item. The
mean over items, its standard error and the paired intervals depend on the sums of clusters alone
(evaluation/paired.py), so they stay what they were; what looks at single items does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dskd_ds.evaluation.items import ItemScores, items_path, read_items, write_items
from dskd_ds.study.results import Result

DIGITS = 7
"""Decimals of a mean that are kept; scores are float32."""
Kept = dict[str, dict[str, dict[str, Any]]]
"""Model -> task -> what `keep` returns."""


def keep_scores(run_dir: Path, models: Sequence[str], tasks: Sequence[str]) -> Kept:
    """Return what a result keeps of the scores in a run directory."""
    return {
        model: {task: keep(read_items(items_path(run_dir, task, model))) for task in tasks}
        for model in models
    }


def keep(scores: ItemScores) -> dict[str, Any]:
    """Return the number of items of each cluster and the means of the metrics over them."""
    counts = np.bincount(scores.clusters)
    sums = {
        metric.key: np.bincount(scores.clusters, weights=scores.values[metric.key])
        for metric in scores.metrics
    }
    means = {key: values / np.maximum(counts, 1) for key, values in sums.items()}
    return {
        "items": scores.digest,
        "counts": counts.tolist(),
        "means": {key: np.round(values, DIGITS).tolist() for key, values in means.items()},
    }


def restored(kept: dict[str, Any], task: str, model: str) -> ItemScores:
    """Return scores in which each item has the mean of its cluster."""
    counts = np.array(kept["counts"], dtype=np.int64)
    means = {key: np.array(values) for key, values in kept["means"].items()}
    return ItemScores(
        task=task,
        model=model,
        digest=kept["items"],
        clusters=np.repeat(np.arange(len(counts)), counts),
        values={key: np.repeat(values, counts) for key, values in means.items()},
    )


def restore_missing(result: Result, run_dir: Path) -> None:
    """Write the scores that a result keeps, where the run directory has none."""
    for model, tasks in result.kept.items():
        for task, kept in tasks.items():
            path = items_path(run_dir, task, model)
            if not path.exists():
                write_items(restored(kept, task, model), path)

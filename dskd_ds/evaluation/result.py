"""What `dskd eval` leaves in a run directory: scores per item, their means, and samples."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dskd_ds.evaluation.items import (
    FOLDER,
    TEACHER_ENTROPY,
    Floats,
    ItemScores,
    items_path,
    write_items,
)
from dskd_ds.evaluation.metrics import metric_of
from dskd_ds.evaluation.paired import mean_and_error
from dskd_ds.files.atomic import write_text

EVALUATION_FILE = "evaluation.json"
TASKS_FILE = "tasks.json"
QUARTERS = 4


@dataclass(frozen=True)
class Score:
    """What was measured of a model on the held-out text."""

    perplexity: float
    perplexity_error: float | None
    """Standard error of the perplexity over documents; None if there is only one."""
    kl: float
    """Mean KL(teacher || model) over the whole vocabulary, in nats, at temperature 1."""
    kl_error: float | None
    """Standard error of the KL over documents; None if there is only one."""
    tokens: int
    """Supervised tokens that were measured."""
    documents: int
    """Documents that they belong to."""
    kl_by_entropy: list[float]
    """Mean KL of each quarter of the tokens, from those where the teacher is most sure (its entropy
    is lowest) to those where it is least. Empty if its entropy was not kept."""


def summarise(items: ItemScores) -> Score:
    """Return the means of a model's held-out scores with their standard errors."""
    ce, ce_error = mean_and_error(items.values["cross_entropy"], items.clusters)
    kl, kl_error = mean_and_error(items.values["kl"], items.clusters)
    perplexity = metric_of("cross_entropy")
    return Score(
        perplexity=perplexity.score(ce),
        perplexity_error=_known(perplexity.error(ce, ce_error)),
        kl=kl,
        kl_error=_known(kl_error),
        tokens=len(items.clusters),
        documents=int(items.clusters.max()) + 1,
        kl_by_entropy=quarter_means(items.values["kl"], items.values.get(TEACHER_ENTROPY)),
    )


def quarter_means(values: Floats, order: Floats | None) -> list[float]:
    """Return the mean value [N] of each quarter of the items, sorted by `order` [N].

    Empty if there is no order, or if there are fewer than four items.
    """
    if order is None or len(values) < QUARTERS:
        return []
    parts = np.array_split(values[np.argsort(order, kind="stable")], QUARTERS)
    return [float(part.mean()) for part in parts]


def write_task_scores(run_dir: str | Path, items: Sequence[ItemScores]) -> dict[str, Any]:
    """Write the scores per question, and add their means to RUN_DIR/evaluation/tasks.json.

    Returns task -> model -> metric -> {"mean", "error"} of everything in that file.
    """
    path = Path(run_dir) / FOLDER / TASKS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for scores in items:
        write_items(scores, items_path(run_dir, scores.task, scores.model))
        content.setdefault(scores.task, {})[scores.model] = means_of(scores)
    write_text(path, json.dumps(content, indent=1))
    return content


def means_of(scores: ItemScores) -> dict[str, Any]:
    """Return metric -> {"mean", "error"} of a task's scores, and the number of `questions`."""
    means: dict[str, Any] = {"questions": len(scores.clusters)}
    for key, values in scores.values.items():
        mean, error = mean_and_error(values, scores.clusters)
        means[key] = {"mean": mean, "error": _known(error)}
    return means


def _known(error: float) -> float | None:
    """Return a standard error, or None for an infinite one, which JSON cannot hold."""
    return error if math.isfinite(error) else None


def write_evaluation(
    run_dir: str | Path, items: dict[str, ItemScores], samples: list[dict[str, str]]
) -> tuple[Path, dict[str, Score]]:
    """Write the scores per item, their summary and the samples into the run directory.

    Returns the summary's file, which the report reads, and the scores in it.
    """
    path = Path(run_dir) / EVALUATION_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    scores = {name: summarise(scores) for name, scores in items.items()}
    for name, item_scores in items.items():
        write_items(item_scores, items_path(run_dir, item_scores.task, name))
    content = {
        "scores": {name: asdict(score) for name, score in scores.items()},
        "samples": samples,
    }
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False))
    return path, scores

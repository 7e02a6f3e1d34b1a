"""Runs tasks with lm-evaluation-harness in this process, and returns the scores per question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dskd_ds.errors import InputError
from dskd_ds.evaluation.items import Floats, Ints, ItemScores, digest_of
from dskd_ds.evaluation.tasks.catalogue import EvalTask
from dskd_ds.evaluation.tasks.documents import written_scorings
from dskd_ds.models.named import NamedModel
from dskd_ds.runtime.devices import local_device, resolve_dtype

SCORE_KEYS = {
    "label": ("accuracy", "margin", "brier"),
    "exact": ("exact",),
    "f1": ("f1",),
}
"""What each scoring measures per question."""


def check_harness() -> None:
    """Raise InputError if lm-evaluation-harness is not installed."""
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        raise InputError(
            "--tasks needs lm-evaluation-harness, which is not installed.\n"
            "  pip install 'dskd-ds[eval]'"
        ) from None


def score_tasks(
    model: NamedModel,
    name: str,
    tasks: Sequence[EvalTask],
    folder: Path,
    batch_size: int,
    seed: int,
) -> list[ItemScores]:
    """Return a model's scores, one entry per task.

    name: of the model, in the results. folder: where `write_documents` has written the tasks.
    """
    results = run_harness(model, tasks, folder, batch_size, seed)
    return [_item_scores(task, name, written_scorings(task, folder), results) for task in tasks]


def run_harness(
    model: NamedModel, tasks: Sequence[EvalTask], folder: Path, batch_size: int, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Return the harness's samples by its task name, in the order of the documents."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    harness_model = HFLM(
        pretrained=model.path,
        dtype=resolve_dtype(model.dtype),
        softmax_dtype="float32",  # in bfloat16, labels of different logits become equally likely
        device=str(local_device()),
        batch_size=batch_size,
        trust_remote_code=False,
    )
    names = [
        f"{task.name}_{scoring}" for task in tasks for scoring in written_scorings(task, folder)
    ]
    results = simple_evaluate(
        model=harness_model,
        tasks=names,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,  # errors are ours: clusters, and pairs of models
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
    )
    return {
        task_name: sorted(samples, key=lambda sample: int(sample["doc_id"]))
        for task_name, samples in results["samples"].items()
    }


def _item_scores(
    task: EvalTask,
    model: str,
    scorings: Sequence[str],
    results: dict[str, list[dict[str, Any]]],
) -> ItemScores:
    values: dict[str, Any] = {}
    documents: list[dict[str, Any]] = []
    for scoring in scorings:
        samples = results[f"{task.name}_{scoring}"]
        documents = [sample["doc"] for sample in samples]
        for key in SCORE_KEYS[scoring]:
            values[key] = np.array([sample[key] for sample in samples], dtype=np.float64)
    if task.is_macro:
        topics = [document["topic"] for document in documents]
        values |= {
            f"{key}_macro": macro_values(values[key], topics)
            for key in ("accuracy", "exact")
            if key in values
        }
    asked = [document["prompt"] + document["lead"] for document in documents]
    prompts = np.array(asked, dtype=np.str_)
    return ItemScores(
        task=task.name,
        model=model,
        digest=digest_of(prompts),
        clusters=clusters_of(documents),
        values=values,
    )


def clusters_of(documents: Sequence[dict[str, Any]]) -> Ints:
    """Return [N] the cluster of each question: those about one context depend on each other.

    A question without a context is a cluster of its own.
    """
    numbers: dict[str, int] = {}
    names = [document["context"] or document["id"] for document in documents]
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def macro_values(values: Floats, topics: Sequence[str]) -> Floats:
    """Return [N] values whose mean over items is the unweighted mean over topics.

    Each is this mean plus the weighted residual of the item from its topic's mean. The residuals
    sum to 0, and give the standard error of the mean for topics of fixed sizes. Weighted values
    would give a larger one: they differ between topics of different size even if all scores are 1.
    """
    _, index, counts = np.unique(np.array(topics), return_inverse=True, return_counts=True)
    means = np.bincount(index, weights=values) / counts
    weights = len(topics) / (len(counts) * counts[index])
    found: Floats = means.mean() + weights * (values - means[index])
    return found

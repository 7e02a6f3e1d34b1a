"""What a study found. The best arm is chosen on one part of the held-out documents.

It is reported on the other part, and on all items of other tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dskd_ds.errors import InputError
from dskd_ds.evaluation.groups import (
    Comparison,
    Group,
    MeasuredRun,
    Only,
    compare,
    with_common_seeds,
)
from dskd_ds.evaluation.heldout import TASK
from dskd_ds.evaluation.items import ItemScores, items_path, read_items
from dskd_ds.evaluation.metrics import Metric, metric_of
from dskd_ds.evaluation.split import Part, part_of
from dskd_ds.study.results import read_result
from dskd_ds.study.runs import Run
from dskd_ds.study.spec import StudySpec, reference_arm


@dataclass(frozen=True)
class ArmScores:
    """The mean over the seeds and items of an arm."""

    arm: str
    num_seeds: int
    dev: float
    """NaN if the study has no dev part."""
    test: float


@dataclass(frozen=True)
class Outcome:
    """The result of a study's finished runs."""

    metric: Metric
    """What the best arm was chosen by."""
    arms: list[ArmScores]
    best: str | None
    """The arm with the best dev score; None if the study has no dev part."""
    groups: list[Group]
    """The finished runs of each arm, the reference first."""
    comparisons: list[Comparison]
    """Every arm against the reference, on the test part of the held-out items and on all others."""
    controls: list[Comparison]
    """Every arm against each of its controls, on the same items."""


def outcome_of(study: StudySpec, runs: Sequence[Run]) -> Outcome:
    """Compare the finished runs of a study. Raises InputError if the reference has none."""
    metric = metric_of(study.select)
    finished = [run for run in runs if read_result(study, run) is not None]
    groups = _groups(study, finished)
    reference, *others = groups
    test = only(study, "test")
    arms = [_scores(study, group, metric) for group in groups]
    best: ArmScores | None = None
    if study.dev_share > 0:
        best = min(arms, key=lambda arm: arm.dev if metric.lower_is_better else -arm.dev)
    return Outcome(
        metric=metric,
        arms=arms,
        best=best.arm if best else None,
        groups=groups,
        comparisons=[result for group in others for result in _compare(reference, group, test)],
        controls=_against_controls(study, groups),
    )


def _against_controls(study: StudySpec, groups: Sequence[Group]) -> list[Comparison]:
    """Compare each arm with its controls, where both have finished runs."""
    finished = {group.name: group for group in groups}
    return [
        result
        for arm, controls in study.controls.items()
        for control in controls
        if arm in finished and control in finished
        for result in _compare(finished[control], finished[arm], only(study, "test"))
    ]


def _compare(reference: Group, group: Group, only: Only) -> list[Comparison]:
    return compare(*with_common_seeds(reference, group), only)


def only(study: StudySpec, part: Part) -> Only:
    """Return the function that keeps one part of the held-out items, and all of other tasks.

    Arms are chosen on held-out text alone, so other tasks are reported whole.
    """

    def keep(scores: ItemScores) -> ItemScores:
        if scores.task != TASK or study.dev_share == 0:
            return scores
        return part_of(scores, part, study.dev_share)

    return keep


def _groups(study: StudySpec, finished: Sequence[Run]) -> list[Group]:
    """Return the finished runs by arm, the reference first."""
    by_arm: dict[str, list[MeasuredRun]] = {reference_arm(study): []}
    for run in finished:
        measured = MeasuredRun(Path(run.spec.run_dir), "after", run.spec)
        by_arm.setdefault(run.arm, []).append(measured)
    if not by_arm[reference_arm(study)]:
        raise InputError(
            f"study {study.name}: no run of its reference {reference_arm(study)} has finished, so"
            " there is nothing to compare with.\n  run dskd sweep again; its logs say what failed."
        )
    return [Group(arm, tuple(measured)) for arm, measured in by_arm.items()]


def _scores(study: StudySpec, group: Group, metric: Metric) -> ArmScores:
    means: dict[Part, float] = {"dev": math.nan}
    parts: tuple[Part, ...] = ("dev", "test") if study.dev_share > 0 else ("test",)
    for part in parts:
        keep = only(study, part)
        measured = [
            keep(read_items(items_path(run.run_dir, TASK, run.model))) for run in group.runs
        ]
        means[part] = float(np.mean([scores.values[metric.key].mean() for scores in measured]))
    return ArmScores(group.name, len(group.runs), dev=means["dev"], test=means["test"])

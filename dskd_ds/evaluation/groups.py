"""Groups of runs that `dskd compare` sets against each other, and their paired differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dskd_ds.errors import InputError
from dskd_ds.evaluation.items import (
    Ints,
    ItemScores,
    by_cluster,
    items_path,
    read_items,
    tasks_of,
)
from dskd_ds.evaluation.metrics import Metric
from dskd_ds.evaluation.paired import Difference, Verdict, mean_and_error, paired_difference
from dskd_ds.spec import SPEC_FILE, RunSpec, load_spec
from dskd_ds.spec.resume import Change, changes_on_resume

DEFAULT_MODEL = "after"
"""The model of a run directory that is compared: the trained student."""
OWN_SETTINGS = ("name", "run_dir", "seed")
"""Settings that differ between two runs of one arm."""


@dataclass(frozen=True)
class MeasuredRun:
    """A run directory and the model in it whose scores are compared."""

    run_dir: Path
    model: str
    spec: RunSpec | None
    """None if the folder has no spec: it holds scores only."""

    @staticmethod
    def of(text: str) -> MeasuredRun:
        """Read `RUN_DIR` or `RUN_DIR:MODEL`. Raises InputError if nothing was measured there."""
        folder, _, model = text.partition(":")
        run_dir = Path(folder)
        model = model or DEFAULT_MODEL
        if not tasks_of(run_dir, model):
            raise InputError(
                f"{folder}: there are no scores of model {model} in {run_dir / 'evaluation'}.\n"
                "  measure first: dskd eval SPEC.toml. Of a model that is not a run: dskd eval"
                " SPEC.toml --model NAME=FOLDER, then compare RUN_DIR:NAME."
            )
        path = run_dir / SPEC_FILE
        spec = load_spec(path) if path.is_file() else None
        return MeasuredRun(run_dir, model, spec)

    def has(self, task: str) -> bool:
        """Return whether the model was measured on a task."""
        return items_path(self.run_dir, task, self.model).is_file()


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed."""

    name: str
    runs: tuple[MeasuredRun, ...]

    @staticmethod
    def of(text: str) -> Group:
        """Read `[NAME=]RUN[,RUN...]`. Raises InputError, also if their settings differ."""
        name, separator, listed = text.partition("=")
        if not separator or "/" in name:  # a path may contain "=", a group's name no "/"
            name, listed = "", text
        runs = _by_seed([MeasuredRun.of(item) for item in listed.split(",") if item])
        if not runs:
            raise InputError(
                f"{text}: this names no run.\n  example: kd=runs/kd-0,runs/kd-1,runs/kd-2"
            )
        group = Group(name or _default_name(runs[0]), runs)
        for run in runs[1:]:
            changes = _changes(runs[0], run)
            if changes:
                keys = ", ".join(change.key for change in changes)
                raise InputError(
                    f"{text}: {run.run_dir} and {runs[0].run_dir} differ in {keys}, so they are not"
                    " seeds of one setting.\n  give them as two groups, separated by a space."
                )
        seeds = group.seeds or []
        for seed in seeds:
            if seeds.count(seed) > 1:
                raise InputError(
                    f"{text}: two of these runs have the seed {seed}, so they say nothing about the"
                    " spread of seeds.\n  name each seed once."
                )
        return group

    @property
    def seeds(self) -> list[int] | None:
        """The seed of each run; None if one has no spec."""
        specs = [run.spec for run in self.runs]
        return None if None in specs else [spec.seed for spec in specs if spec]

    @property
    def tasks(self) -> list[str]:
        """The tasks that every run was measured on."""
        first, *others = self.runs
        tasks = tasks_of(first.run_dir, first.model)
        return [task for task in tasks if all(run.has(task) for run in others)]


def _by_seed(runs: list[MeasuredRun]) -> tuple[MeasuredRun, ...]:
    """Return runs ordered by seed, so that two groups with the same seeds are paired."""
    return tuple(sorted(runs, key=lambda run: run.spec.seed if run.spec else 0))


def _default_name(run: MeasuredRun) -> str:
    folder = run.run_dir.resolve().name
    return folder if run.model == DEFAULT_MODEL else f"{folder}:{run.model}"


def _changes(first: MeasuredRun, second: MeasuredRun) -> list[Change]:
    """Return the settings that differ, but for those that differ between seeds of one arm."""
    if first.spec is None or second.spec is None:
        return []
    changes = changes_on_resume(first.spec, second.spec)
    return [change for change in changes if change.key not in OWN_SETTINGS]


@dataclass(frozen=True)
class Comparison:
    """One metric of one task: a group against the reference."""

    task: str
    metric: Metric
    reference: str
    group: str
    reference_mean: float
    group_mean: float
    difference: Difference
    is_same_setting: bool
    """Whether the runs of both groups differ in nothing but their seed."""

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `no difference shown`, said of the group."""
        verdict = self.difference.verdict
        if verdict is Verdict.UNCLEAR:
            return str(verdict)
        is_lower = verdict is Verdict.LOWER
        return "better" if is_lower == self.metric.lower_is_better else "worse"

    @property
    def about(self) -> str:
        """What the verdict is about: settings, or only the models that were measured."""
        if self.difference.seed_error is not None:
            return "this holds for the settings"
        if self.is_same_setting:
            return "this holds for these models only: their settings are equal, seeds differ"
        return "this holds for these models only: a claim on settings needs 2 or more seeds of each"


def with_common_seeds(reference: Group, group: Group) -> tuple[Group, Group]:
    """Return both with the seeds that both have, so that they are paired seed by seed.

    They are returned as they are if a run's seed is unknown, or if they have no seed in common.
    """
    common = set(reference.seeds or []) & set(group.seeds or [])
    if not common:
        return reference, group
    return _with_seeds(reference, common), _with_seeds(group, common)


def _with_seeds(group: Group, seeds: set[int]) -> Group:
    """Return the runs of a group that have one of the seeds."""
    return Group(
        group.name, tuple(run for run in group.runs if run.spec and run.spec.seed in seeds)
    )


Only = Callable[[ItemScores], ItemScores]
"""Returns the items to compare, of all that were measured."""


def every_item(scores: ItemScores) -> ItemScores:
    """Return all items."""
    return scores


def compare(reference: Group, group: Group, only: Only = every_item) -> list[Comparison]:
    """Return the differences in every task and metric that both groups have.

    only: the items that count.
    Raises InputError if they have no task in common, or measured other items.
    """
    measured = group.tasks
    tasks = [task for task in reference.tasks if task in measured]
    if not tasks:
        raise InputError(
            f"{reference.name} and {group.name}: no task was measured in both.\n"
            "  run dskd eval with the same tasks on both."
        )
    return [
        comparison for task in tasks for comparison in _compare_task(reference, group, task, only)
    ]


def _compare_task(reference: Group, group: Group, task: str, only: Only) -> list[Comparison]:
    num_first = len(reference.runs)
    measured = [only(scores) for scores in read_scores([*reference.runs, *group.runs], task)]
    first, second = measured[:num_first], measured[num_first:]
    seeds_are_paired = reference.seeds is not None and reference.seeds == group.seeds
    clusters = first[0].clusters
    keys = {metric.key for metric in second[0].metrics}
    is_same_setting = reference.runs[0].model == group.runs[0].model and not _changes(
        reference.runs[0], group.runs[0]
    )
    results: list[Comparison] = []
    for metric in first[0].metrics:
        if metric.key not in keys:
            continue
        first_rows = np.stack([scores.values[metric.key] for scores in first])
        second_rows = np.stack([scores.values[metric.key] for scores in second])
        difference = paired_difference(
            first_rows, second_rows, clusters, seeds_are_paired=seeds_are_paired
        )
        results.append(
            Comparison(
                task=task,
                metric=metric,
                reference=reference.name,
                group=group.name,
                reference_mean=float(first_rows.mean()),
                group_mean=float(second_rows.mean()),
                difference=difference,
                is_same_setting=is_same_setting,
            )
        )
    return results


def read_scores(runs: Sequence[MeasuredRun], task: str) -> list[ItemScores]:
    """Return the scores of each run in a task, with their items in one order.

    Raises InputError if one was not measured, or if they measured other items.
    """
    measured = [by_cluster(read_items(items_path(run.run_dir, task, run.model))) for run in runs]
    first = measured[0]
    for scores in measured[1:]:
        if scores.digest != first.digest or not np.array_equal(scores.clusters, first.clusters):
            raise InputError(
                f"task {first.task}: model {scores.model} was measured on other items than"
                f" {first.model}, so they cannot be paired.\n"
                "  measure all with the same [data] heldout, tokenizer and [eval] num_tokens, and"
                " with one version of dskd-ds."
            )
    return measured


def score_rows(
    groups: Sequence[Group], task: str, only: Only = every_item
) -> list[tuple[Group, Metric, float, float]]:
    """Return each group's mean over runs and its standard error over items, per metric."""
    rows: list[tuple[Group, Metric, float, float]] = []
    for group in groups:
        measured = [only(scores) for scores in read_scores(group.runs, task)]
        clusters: Ints = measured[0].clusters
        for metric in measured[0].metrics:
            values = np.stack([scores.values[metric.key] for scores in measured]).mean(axis=0)
            rows.append((group, metric, *mean_and_error(values, clusters)))
    return rows


def changed_settings(reference: Group, group: Group) -> list[Change]:
    """Return the settings in which two groups differ."""
    return _changes(reference.runs[0], group.runs[0])

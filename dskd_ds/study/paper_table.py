"""The paper's table: scores of teacher, untrained student and arms, and paired differences.

Arms are decided by the KL to the teacher and by the margin of the right label. Accuracy counts only
on tasks where the teacher itself beats chance: a student cannot learn there what the teacher does
not know.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dskd_ds.evaluation.groups import (
    Comparison,
    Group,
    MeasuredRun,
    compare,
    read_scores,
    with_common_seeds,
)
from dskd_ds.evaluation.heldout import TASK as HELDOUT
from dskd_ds.evaluation.items import items_path, read_items
from dskd_ds.evaluation.metrics import Metric, metric_of
from dskd_ds.evaluation.paired import mean_and_error
from dskd_ds.evaluation.tasks.documents import chance_of_guess
from dskd_ds.evaluation.word_tasks import WIC, WORD_TASKS, stored_names
from dskd_ds.study.cost import COST_FILE, read_cost
from dskd_ds.study.one_run import BASELINES
from dskd_ds.study.results import Result, read_result
from dskd_ds.study.runs import Run, baseline_run
from dskd_ds.study.spec import BASELINE, StudySpec, reference_arm

MIN_LEAD = 0.05
"""Accuracy counts on a task if the teacher's is at least this much above chance."""
DECIDING = ("kl", "margin")
"""Metrics that decide between arms."""
TITLES = {"teacher": "teacher", "before": "untrained student"}


@dataclass(frozen=True)
class Table:
    """A table of texts."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""

    def markdown(self) -> str:
        """Return the table as Markdown, with its title and note."""
        lines = [f"## {self.title}", "", _line(self.header), _line(["---"] * len(self.header))]
        lines += [_line(row) for row in self.rows]
        return "\n".join([*lines, *(["", self.note] if self.note else [])]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def baseline_groups(study: StudySpec) -> list[Group]:
    """Return the teacher and the untrained student, as far as they are measured."""
    folder = Path(study.folder) / BASELINE
    return [
        Group(TITLES[name], (MeasuredRun(folder, name, spec=None),))
        for name in BASELINES
        if items_path(folder, HELDOUT, name).is_file()
    ]


def tables(study: StudySpec, arms: Sequence[Group], runs: Sequence[Run]) -> list[Table]:
    """Return all tables of the finished runs. arms: the reference first."""
    groups = [*baseline_groups(study), *arms]
    counted = counted_tasks(study)
    return [
        _scores(study, groups, [("kl", HELDOUT), ("cross_entropy", HELDOUT)], "Held-out questions"),
        _scores(study, groups, [("margin", task) for task in _tasks(study)], "Margin (nats)"),
        _accuracy(study, groups),
        *_words(study, groups),
        _differences(study, arms, counted),
        *_cost(study),
        _seconds_taken(study, runs),
    ]


def _tasks(study: StudySpec) -> list[str]:
    """Return the tasks that ask questions."""
    names = study.tasks.names if study.tasks else ()
    return [name for name in names if name not in WORD_TASKS]


def _words(study: StudySpec, groups: Sequence[Group]) -> list[Table]:
    """Return the table of the word tasks, by depth; none if the study has no such task."""
    names = study.tasks.names if study.tasks else ()
    found = stored_names([name for name in names if name in WORD_TASKS])
    if not found:
        return []
    columns = [("auc" if name.startswith(WIC) else "spearman", name) for name in found]
    return [_scores(study, groups, columns, "States of words, by percent of the layers")]


def _scores(
    study: StudySpec, groups: Sequence[Group], columns: Sequence[tuple[str, str]], title: str
) -> Table:
    """Return a table of scores. columns: (metric, task) each."""
    header = ["model", "seeds"]
    for key, task in columns:
        header.append(metric_of(key).label if task == HELDOUT else task)
    rows = []
    for group in groups:
        cells = [score_text(group, task, metric_of(key)) for key, task in columns]
        rows.append((group.name, _seeds(study, group), *cells))
    note = "± one standard error over questions, for the mean of the arm's seeds."
    return Table(title, tuple(header), rows, note)


def _seeds(study: StudySpec, group: Group) -> str:
    return (
        "-" if group.runs[0].run_dir.name == BASELINE and study.baselines else str(len(group.runs))
    )


def score_text(group: Group, task: str, metric: Metric) -> str:
    """Return a group's score in a task with its standard error; `-` if it was not measured."""
    if not all(run.has(task) for run in group.runs):
        return "-"
    measured = read_scores(group.runs, task)
    if metric.key not in measured[0].values:
        return "-"
    values = np.stack([scores.values[metric.key] for scores in measured]).mean(axis=0)
    mean, error = mean_and_error(values, measured[0].clusters)
    return f"{metric.score(mean):.4f} ± {metric.error(mean, error):.4f}"


def chance_of(study: StudySpec, task: str) -> float | None:
    """Return the accuracy of a guess at a task's questions; None if it is not known.

    The questions tell it, or the result of the baselines, where their run directory is gone.
    """
    chance = chance_of_guess(Path(study.folder) / BASELINE, task)
    if chance is not None or not study.baselines:
        return chance
    result = read_result(study, baseline_run(study))
    return result.chances.get(task) if result else None


def accuracy_counts(study: StudySpec, task: str) -> bool | None:
    """Return whether the teacher beats chance by MIN_LEAD, so that accuracy counts on a task.

    None if that is not known: without a measured teacher, without choices, or if the questions are
    gone and the result of the baselines is of an earlier version.
    """
    chance = chance_of(study, task)
    path = items_path(Path(study.folder) / BASELINE, task, "teacher")
    if chance is None or not path.is_file():
        return None
    values = read_items(path).values
    return "accuracy" in values and bool(values["accuracy"].mean() >= chance + MIN_LEAD)


def counted_tasks(study: StudySpec) -> list[str]:
    """Return the tasks on which accuracy counts."""
    return [task for task in _tasks(study) if accuracy_counts(study, task)]


def _accuracy(study: StudySpec, groups: Sequence[Group]) -> Table:
    header = ["task", "chance", "counts", *(group.name for group in groups)]
    rows = []
    for task in _tasks(study):
        chance = chance_of(study, task)
        cells = [score_text(group, task, metric_of("accuracy")) for group in groups]
        shown = "-" if chance is None else f"{chance:.3f}"
        counts = {True: "yes", False: "no", None: "unknown"}[accuracy_counts(study, task)]
        rows.append((task, shown, counts, *cells))
    note = (
        "Accuracy by label probability. It counts where the teacher beats chance by"
        f" {100 * MIN_LEAD:.0f} points or more."
    )
    return Table("Accuracy", tuple(header), rows, note)


def paper_comparisons(arms: Sequence[Group], counted: Sequence[str]) -> list[Comparison]:
    """Return the differences that decide: of every arm to the first one."""
    reference, *others = arms
    found = [result for group in others for result in compare(*with_common_seeds(reference, group))]
    return [
        result
        for result in found
        if result.metric.key in DECIDING
        or (result.metric.key == "accuracy" and result.task in counted)
    ]


def _differences(study: StudySpec, arms: Sequence[Group], counted: Sequence[str]) -> Table:
    seeds: dict[str, str] = {}
    for group in arms:
        reference, paired = with_common_seeds(arms[0], group)
        seeds[group.name] = f"{len(paired.runs)} against {len(reference.runs)}"
    rows = []
    for result in paper_comparisons(arms, counted):
        found = result.difference
        rows.append(
            (
                result.group,
                seeds[result.group],
                result.task,
                result.metric.label,
                f"{found.mean:+.4f}",
                f"{found.low:+.4f} ... {found.high:+.4f}",
                result.verdict,
                "settings" if found.seed_error is not None else "these models only",
            )
        )
    header = ("arm", "seeds", "task", "score", "difference", "95 % interval", "verdict", "about")
    note = (
        f"Paired question by question and seed by seed against {reference_arm(study)}. With 2 or"
        " more seeds of both arms the interval contains the spread of seeds. Each interval is wrong"
        " in 1 of 20 cases."
    )
    return Table("Differences", header, rows, note)


def _cost(study: StudySpec) -> list[Table]:
    """Return the table of what the sense term costs, if it was measured."""
    content = read_cost(study)
    if content is None or study.cost is None:
        return []
    rows = []
    for key, details in content["details"].items():
        reached = {True: "reached", False: "missed", None: ""}[details["reached"]]
        target = f"at most {details['target']}"
        rows.append((details["what"], f"{content[key]:.4f}", target, reached))
    header = ("ratio", "median", "target", "")
    note = (
        f"{study.cost.rounds} launches of each kind in turn, student and teacher on a core of their"
        f" own; the details are in {COST_FILE}."
    )
    return [Table("What the sense term costs", header, rows, note)]


def _seconds_taken(study: StudySpec, runs: Sequence[Run]) -> Table:
    """Return what the runs took. They share the machine, so this is no measurement of ratios."""
    by_arm: dict[str, list[Result]] = {}
    for run in runs:
        result = read_result(study, run)
        if result is not None:
            by_arm.setdefault(run.arm, []).append(result)
    rows = []
    for arm, results in by_arm.items():
        seconds = [statistics.median(found) for found in _stage_seconds(results)]
        memory = statistics.median(result.last_record["rss_bytes"] for result in results)
        cells = [f"{value:.0f}" for value in seconds]
        rows.append((arm, str(len(results)), *cells, f"{memory / 1e9:.2f}"))
    header = ("arm", "runs", "training (s)", "evaluation (s)", "tasks (s)", "student memory (GB)")
    note = "Medians over the runs, on the machine as it was; the ratios are measured apart."
    return Table("What the runs took", header, rows, note)


def _stage_seconds(results: Sequence[Result]) -> list[list[float]]:
    stages = ("train", "eval", "tasks")
    return [[result.seconds.get(stage, 0.0) for result in results] for stage in stages]

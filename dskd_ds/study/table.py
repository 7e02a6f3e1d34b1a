"""A study's table as Markdown, and its picture: a heat map of a grid, or one curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dskd_ds.evaluation.groups import Comparison
from dskd_ds.evaluation.heldout import TASK
from dskd_ds.study.outcome import ArmScores, Outcome
from dskd_ds.study.spec import StudySpec, all_arms

PICTURE_FILE = "grid.png"


def markdown(study: StudySpec, outcome: Outcome, planned: int) -> str:
    """Return the table of arms, the best one, and every arm's difference to the reference.

    planned: number of runs of the whole study.
    """
    done = sum(arm.num_seeds for arm in outcome.arms)
    metric, reference = outcome.metric, outcome.groups[0].name
    has_dev = outcome.best is not None
    split = (
        f"Held-out documents are split: the best arm is chosen on {study.dev_share:.0%} of them"
        " (dev) and reported on the others (test). Other tasks are reported whole."
    )
    lines = [
        f"# {study.name}",
        "",
        f"{done} of {planned} runs are done. {split if has_dev else 'All documents are reported.'}",
        "",
        f"| arm | seeds | {metric.label}{', dev | test' if has_dev else ''} |",
        f"|---|---|---|{'---|' if has_dev else ''}",
        *(_arm_row(arm, outcome) for arm in outcome.arms),
        "",
        f"{'Test, against' if has_dev else 'Against'} {reference}; intervals of 95 % over documents"
        " and, with 2 or more seeds of each arm, over seeds:",
        "",
        "| arm | score | difference | interval | verdict |",
        "|---|---|---|---|---|",
        *(_difference_row(result, result.group) for result in outcome.comparisons),
    ]
    if outcome.controls:
        lines += ["", *_control_lines(study, outcome)]
    if has_dev:
        lines += ["", f"**Best arm on dev: {outcome.best}.** {_verdict_of_best(outcome)}"]
    return "\n".join(lines) + "\n"


def _arm_row(arm: ArmScores, outcome: Outcome) -> str:
    score = outcome.metric.score
    mark = " (best)" if arm.arm == outcome.best else ""
    dev = "" if math.isnan(arm.dev) else f"{score(arm.dev):.4g} | "
    return f"| {arm.arm}{mark} | {arm.num_seeds} | {dev}{score(arm.test):.4g} |"


def _control_lines(study: StudySpec, outcome: Outcome) -> list[str]:
    """Return the table of arms against their controls, and what follows for each arm."""
    arms = dict.fromkeys(result.group for result in outcome.controls)
    return [
        "Against controls, on the same documents:",
        "",
        "| arm | control | score | difference | interval | verdict |",
        "|---|---|---|---|---|---|",
        *(
            _difference_row(result, f"{result.group} | {result.reference}")
            for result in outcome.controls
        ),
        "",
        *(f"- {verdict_with_controls(outcome, arm, study.controls[arm])}" for arm in arms),
    ]


def verdict_with_controls(outcome: Outcome, arm: str, controls: Sequence[str]) -> str:
    """Return whether an arm beats the reference and each of its controls, in the chosen metric."""
    results = [
        result
        for result in (*outcome.comparisons, *outcome.controls)
        if (result.group, result.metric) == (arm, outcome.metric)
    ]
    key, beaten = outcome.metric.key, [result.reference for result in results]
    not_beaten = [result.reference for result in results if result.verdict != "better"]
    if not_beaten:
        return f"**{arm}**: not shown to be better in {key} than {_listed(not_beaten)}."
    missing = [control for control in controls if control not in beaten]
    if missing:
        return (
            f"**{arm}**: better in {key} than {_listed(beaten)}; not yet compared with"
            f" {_listed(missing)}."
        )
    return f"**{arm}**: better in {key} than {_listed(beaten)}."


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _difference_row(result: Comparison, cells: str) -> str:
    """Return a row of differences. cells: its first cells, which say what is compared."""
    found, key = result.difference, result.metric.key
    score = key if result.task == TASK else f"{result.task} {key}"
    return (
        f"| {cells} | {score} | {found.mean:+.4f} |"
        f" {found.low:+.4f} ... {found.high:+.4f} | {result.verdict} |"
    )


def _verdict_of_best(outcome: Outcome) -> str:
    """Return what the test part says of the best arm."""
    reference = outcome.groups[0].name
    for result in outcome.comparisons:
        if (result.group, result.metric) == (outcome.best, outcome.metric):
            return f"On test, against {reference}: {result.verdict}; {result.about}."
    return f"It is the reference: no other arm was better than {reference} on dev."


def draw_grid(study: StudySpec, outcome: Outcome, folder: Path) -> Path | None:
    """Draw the dev score over a grid of one or two settings; None for any other study."""
    if len(study.grid) not in (1, 2) or outcome.best is None:
        return None
    import matplotlib

    matplotlib.use("Agg")  # draws without a display; must be chosen before pyplot is imported
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.4), dpi=110)
    scores = _dev_scores(study, outcome)
    keys = list(study.grid)
    label = f"{outcome.metric.label}, dev"
    if len(keys) == 1:
        values = study.grid[keys[0]]
        axes.plot(range(len(values)), scores[:, 0], marker="o")
        axes.set_xticks(range(len(values)), [str(value) for value in values])
        axes.set(xlabel=keys[0], ylabel=label)
        axes.grid(alpha=0.3)
    else:
        _draw_cells(axes, scores, [study.grid[key] for key in keys])
        axes.set(ylabel=keys[0], xlabel=keys[1], title=f"{label} (dark: better)")
    figure.tight_layout()
    path = folder / PICTURE_FILE
    figure.savefig(path)
    pyplot.close(figure)
    return path


def _dev_scores(study: StudySpec, outcome: Outcome) -> Any:
    """Return the dev scores of the grid's arms, [values of key 1, values of key 2 or 1]."""
    by_arm = {arm.arm: outcome.metric.score(arm.dev) for arm in outcome.arms}
    names = [name for name in all_arms(study) if name not in study.arms]
    shape = [len(values) for values in study.grid.values()]
    return np.array([by_arm.get(name, np.nan) for name in names]).reshape(shape[0], -1)


def _draw_cells(axes: Any, scores: Any, values: Sequence[Sequence[Any]]) -> None:
    """Draw one cell per combination with its number; a combination without a run stays empty."""
    axes.imshow(scores, cmap="Blues_r", aspect="auto")
    axes.set_yticks(range(len(values[0])), [str(value) for value in values[0]])
    axes.set_xticks(range(len(values[1])), [str(value) for value in values[1]])
    middle = (np.nanmin(scores) + np.nanmax(scores)) / 2
    for (row, column), score in np.ndenumerate(scores):
        if np.isfinite(score):
            colour = "white" if score < middle else "black"
            axes.text(column, row, f"{score:.4g}", ha="center", va="center", color=colour)

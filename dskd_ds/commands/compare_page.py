"""Writes `compare.html`: intervals, curves, tables and settings of several groups of runs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from dskd_ds.commands.compare_text import difference_text, verdict_text
from dskd_ds.commands.report_page import png_uri, sense_facts
from dskd_ds.evaluation.groups import (
    Comparison,
    Group,
    Only,
    changed_settings,
    every_item,
    score_rows,
)
from dskd_ds.evaluation.metrics import Metric
from dskd_ds.observe.metrics import read_metrics
from dskd_ds.study.paper_table import Table

PAGE_FILE = "compare.html"
PICTURE_FILE = "compare.png"
CURVES = (
    ("loss", "loss"),
    ("loss_ce", "cross-entropy (nats)"),
    ("loss_kd", "KL to the teacher (nats)"),
    ("grad_norm", "gradient norm"),
    ("tokens_per_second", "tokens per second"),
)
"""(key of metrics.jsonl, title) of each chart."""


def write_page(
    folder: Path,
    groups: Sequence[Group],
    comparisons: Sequence[Comparison],
    only: Only = every_item,
    tables: Sequence[Table] = (),
) -> Path:
    """Write the page and its picture of intervals into a folder; returns the page's path.

    groups: the reference first. only: the items of which the page shows scores.
    tables: shown first.
    """
    template = (
        resources.files("dskd_ds.commands")
        .joinpath("compare_template.html")
        .read_text(encoding="utf-8")
    )
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    figure = _draw_intervals(comparisons)
    figure.savefig(folder / PICTURE_FILE)
    page = environment.from_string(template).render(
        groups=groups,
        tables=tables,
        rows=[_row(comparison) for comparison in comparisons],
        intervals=png_uri(figure),
        curves=_curves(groups),
        tasks={task: _scores(groups, task, only) for task in groups[0].tasks},
        settings={group.name: changed_settings(groups[0], group) for group in groups[1:]},
        senses={group.name: _senses(group) for group in groups},
    )
    path = folder / PAGE_FILE
    path.write_text(page, encoding="utf-8")
    return path


def _row(comparison: Comparison) -> dict[str, Any]:
    return {
        "task": comparison.task,
        "metric": comparison.metric.label,
        "group": comparison.group,
        "reference": comparison.reference,
        "difference": difference_text(comparison),
        "verdict": comparison.verdict,
        "text": verdict_text(comparison),
    }


def _scores(groups: Sequence[Group], task: str, only: Only) -> list[dict[str, Any]]:
    """Return one row per group and metric of a task; a group without the task is left out."""
    measured = [group for group in groups if task in group.tasks]
    return [
        {
            "group": group.name,
            "metric": metric.label,
            "score": metric.score(mean),
            "error": metric.error(mean, error),
        }
        for group, metric, mean, error in score_rows(measured, task, only)
    ]


def _senses(group: Group) -> dict[str, str]:
    spec = group.runs[0].spec
    return sense_facts(spec) if spec else {}


def _new_figure(**options: Any) -> tuple[Any, Any, Any]:
    """Return (pyplot, figure, axes), drawn without a display."""
    import matplotlib

    matplotlib.use("Agg")  # must be chosen before pyplot is imported
    from matplotlib import pyplot

    return (pyplot, *pyplot.subplots(**options))


def _draw_intervals(comparisons: Sequence[Comparison]) -> Any:
    """Return a figure with one interval per row, and a panel per task and metric."""
    by_panel: dict[tuple[str, Metric], list[Comparison]] = {}
    for result in comparisons:
        by_panel.setdefault((result.task, result.metric), []).append(result)
    rows = [len(shown) for shown in by_panel.values()]
    height = 1.0 + 0.45 * sum(rows) + 0.5 * len(rows)
    pyplot, figure, panels = _new_figure(
        nrows=len(rows),
        figsize=(7, height),
        dpi=110,
        squeeze=False,
        height_ratios=[count + 1 for count in rows],
    )
    for ((task, metric), shown), axes in zip(by_panel.items(), panels[:, 0], strict=True):
        for index, result in enumerate(shown):
            found = result.difference
            colour = {"better": "#1a7f37", "worse": "#cf222e"}.get(result.verdict, "#57606a")
            axes.plot([found.low, found.high], [index, index], color=colour, linewidth=2)
            axes.plot([found.mean], [index], "o", color=colour)
        axes.axvline(0, color="#1b1f24", linewidth=0.8)
        names = [f"{result.group}\nminus {result.reference}" for result in shown]
        axes.set_yticks(range(len(shown)), names, size=8)
        axes.set_ylim(-0.6, len(shown) - 0.4)
        side = "left" if metric.lower_is_better else "right"
        unit = "log of the perplexity" if metric.is_log else metric.label
        axes.set_title(f"{task}: {unit} ({side} is better)", size=9)
        axes.grid(alpha=0.3, axis="x")
    figure.tight_layout()
    pyplot.close(figure)
    return figure


def _curves(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """Return (title, PNG data URI) of each chart for which a run has a record."""
    records = {run.run_dir: read_metrics(run.run_dir) for group in groups for run in group.runs}
    return [
        (title, _draw_curves(groups, records, key, title))
        for key, title in CURVES
        if any(key in record for rows in records.values() for record in rows)
    ]


def _draw_curves(
    groups: Sequence[Group],
    records: dict[Path, list[dict[str, float]]],
    key: str,
    title: str,
) -> str:
    """Return a chart of one metric over steps, one colour per group, as a PNG data URI."""
    pyplot, figure, axes = _new_figure(figsize=(7, 3.6), dpi=110)
    for index, group in enumerate(groups):
        for run_index, run in enumerate(group.runs):
            shown = [record for record in records[run.run_dir] if key in record]
            axes.plot(
                [record["step"] for record in shown],
                [record[key] for record in shown],
                color=f"C{index}",
                linewidth=1.4,
                alpha=0.8,
                label=group.name if run_index == 0 else None,
            )
    axes.set(title=title, xlabel="step")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    pyplot.close(figure)
    return png_uri(figure)

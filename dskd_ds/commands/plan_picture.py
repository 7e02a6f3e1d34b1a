"""Draws a plan: memory by kind, and the parts of a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dskd_ds.costs.plan import RunPlan
from dskd_ds.files.output import writing_output

GB = 1e9


def draw_plan(plan: RunPlan, path: Path) -> None:
    """Write the picture of a plan as a PNG: memory on the left, a step's time on the right.

    Raises InputError if it cannot be written.
    """
    import matplotlib

    # Draws without a display; must be chosen before pyplot is imported.
    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = 2 if plan.speed else 1
    figure, axes = pyplot.subplots(1, columns, figsize=(7.5 * columns, 4.6), dpi=110, squeeze=False)
    _draw_memory(axes[0][0], plan)
    if plan.speed:
        _draw_step(axes[0][1], plan)
    figure.suptitle(f"{plan.name} on {plan.place}")
    figure.tight_layout()
    with writing_output(path, "--picture"):
        figure.savefig(path)
    pyplot.close(figure)


def _draw_memory(axes: Any, plan: RunPlan) -> None:
    """Draw a bar per rank or node, stacked by kind, as a share of the memory that it has.

    Shares, because a node has many times the memory of a GPU.
    """
    colours = _colours([kind for need in plan.needs for kind in need.memory.parts])
    for place, need in enumerate(plan.needs):
        start = 0.0
        capacity = max(need.capacity, 1)
        for kind, size in need.memory.parts.items():
            height = 100 * size * need.count / capacity
            axes.bar(place, height, bottom=start, width=0.55, color=colours[kind], label=kind)
            start += height
        if need.added:
            added = 100 * need.added / capacity
            axes.bar(place, added, bottom=start, width=0.55, color="#cccccc", label="all else")
    axes.axhline(100, color="#b00020", linewidth=2)
    names = [
        need.what.replace(", ", ",\n")
        + f"\n{need.needed / GB:,.1f} of {need.capacity / GB:,.0f} GB"
        for need in plan.needs
    ]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set(title="memory (red: all that there is)", ylabel="%")
    _legend_once(axes)


def _draw_step(axes: Any, plan: RunPlan) -> None:
    """Draw the parts of a step as one bar, and a teacher's work for it beside it."""
    assert plan.speed is not None
    step, teacher = plan.speed.step, plan.speed.teacher
    parts = {
        "layers": step.compute,
        "objective": step.head,
        "gather and reduce": step.gather_reduce,
        "update": step.update,
        "waiting for teachers": step.teacher_wait,
        "waiting for senses": step.sense_wait,
    }
    names = ["a student's step"]
    if teacher:
        parts["teacher: layers"] = teacher.layers
        parts["teacher: head and signal"] = teacher.head + teacher.senses
        names.append("a teacher's\nanswer to one request")
    colours = _colours(list(parts))
    start = [0.0, 0.0]
    for kind, seconds in parts.items():
        bar = int(kind.startswith("teacher:"))
        axes.bar(bar, seconds, bottom=start[bar], width=0.55, color=colours[kind], label=kind)
        start[bar] += seconds
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set(title=f"time: {step.tokens_per_second:,.0f} tokens/s", ylabel="seconds")
    _legend_once(axes)


def _colours(kinds: list[str]) -> dict[str, Any]:
    """Return a colour for each kind, in their order."""
    from matplotlib import colormaps

    palette = colormaps["tab20"]
    names = list(dict.fromkeys(kinds))
    return {kind: palette(index % palette.N) for index, kind in enumerate(names)}


def _legend_once(axes: Any) -> None:
    """Add a legend with one entry per kind, although each bar has its own."""
    handles, labels = axes.get_legend_handles_labels()
    first = dict(zip(reversed(labels), reversed(handles), strict=True))
    ordered = [label for label in dict.fromkeys(labels) if label in first]
    shown = [first[label] for label in ordered]
    # Beside the bars, which it would hide.
    axes.legend(shown, ordered, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    axes.grid(axis="y", alpha=0.3)

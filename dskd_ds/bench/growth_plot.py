"""Draws how costs grow: one small plot per curve, both axes from zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MARGIN = 1.08
"""Where an axis ends, over its largest value."""


@dataclass(frozen=True)
class Curve:
    """A cost at several sizes."""

    name: str
    size: str
    """What the sizes count, with the unit."""
    cost: str
    """What the costs are, with the unit."""
    points: list[tuple[float, float]]
    """(size, cost), by ascending size."""


def draw_curves(curves: Sequence[Curve], output: Path) -> None:
    """Write a PNG with all curves beside each other."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    figure, rows = pyplot.subplots(
        1, len(curves), figsize=(4.2 * len(curves), 3.4), dpi=130, squeeze=False
    )
    for axes, curve in zip(rows[0], curves, strict=True):
        sizes, costs = zip(*curve.points, strict=True)
        axes.plot(sizes, costs, marker="o")
        axes.set(xlabel=curve.size, title=curve.name)
        axes.set(xlim=(0, MARGIN * max(sizes)), ylim=(0, MARGIN * max(costs)))
        is_whole = all(float(size).is_integer() for size in sizes)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=is_whole))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.set_ylabel(curve.cost, fontsize=8)
        axes.grid(alpha=0.3)
    figure.tight_layout()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output)
    pyplot.close(figure)

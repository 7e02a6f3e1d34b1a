"""How much each constant moves the study's results."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt

from dskd_ds.costs.constants import FITTED, constant_fields
from tools.plan_validation.finding import Cell, Table
from tools.scaling.section import Section
from tools.scaling.setting import Setting

BASE = Setting("Llama-8B", "Llama-70B", "h100-80", 64, senses=True, retrieve_on="teacher")
SMALL = Setting("Llama-1B", "Llama-8B", "h100-80", 64, senses=True, retrieve_on="teacher")
LEAST_EFFECT = 0.002
"""Effects below this are listed as none."""


def student_rate(setting: Setting) -> float:
    """Return tokens per second and student GPU."""
    own = setting.own()
    return own.step_tokens / own.total / setting.num_students


def ratio(setting: Setting) -> float:
    """Return teacher GPUs per student GPU."""
    return setting.teacher_gpus() / setting.num_students


RESULTS = {
    "8B from 70B: tokens/s per student GPU": (BASE, student_rate),
    "8B from 70B: teacher GPUs per student GPU": (BASE, ratio),
    "1B from 8B: teacher GPUs per student GPU": (SMALL, ratio),
}


def effects(name: str) -> dict[str, tuple[float, float]]:
    """Return for each result how much the low and the high end of a constant change it."""
    metadata = constant_fields()[name].metadata
    changes = {}
    for result, (setting, measure) in RESULTS.items():
        middle = measure(setting)
        low, high = (
            measure(setting.with_constant(name, metadata[end])) / middle - 1
            for end in ("low", "high")
        )
        changes[result] = low, high
    return changes


def sensitivity() -> Section:
    """Return each constant with its range, its source and its effects."""
    rows: list[list[Cell]] = []
    strongest: dict[str, tuple[str, float]] = {}
    for name, constant in constant_fields().items():
        metadata = constant.metadata
        changes = effects(name)
        row: list[Cell] = [
            f"`{name}`",
            f"{constant.default:g} ({metadata['low']:g} to {metadata['high']:g})",
            metadata["meaning"],
            "fitted" if metadata["source"] == FITTED else metadata["source"],
        ]
        for result, (low, high) in changes.items():
            size = max(abs(low), abs(high))
            row.append(f"{low:+.0%} / {high:+.0%}" if size > LEAST_EFFECT else "none")
            if size > strongest.get(result, ("", 0.0))[1]:
                strongest[result] = name, size
        rows.append(row)
    table = Table(
        "Every constant",
        "Effects of the low / high end of a constant's range, all others at their values.",
        ["constant", "value (range)", "meaning", "source", *RESULTS],
        rows,
    )
    return Section(
        name="sensitivity",
        title="Sensitivity to every constant",
        setting=(
            "64 H100 of students; the sense term with senses chosen by the teachers. Constants that"
            " only failures and saves depend on have no effect here; the section on failures varies"
            " them."
        ),
        findings=[
            f"{result}: the strongest constant is `{name}` (up to {size:.0%})."
            for result, (name, size) in strongest.items()
        ],
        tables=[table],
        draw=_draw,
    )


def _draw(path: Path) -> None:
    figure, grid = plt.subplots(1, len(RESULTS), figsize=(13, 5.5), layout="constrained")
    all_effects = {name: effects(name) for name in constant_fields()}
    for axes, result in zip(grid, RESULTS, strict=True):
        pairs = {name: changes[result] for name, changes in all_effects.items()}
        shown = {name: pair for name, pair in pairs.items() if max(map(abs, pair)) > LEAST_EFFECT}
        names = sorted(shown, key=lambda name: max(map(abs, shown[name])))
        for index, end in enumerate(("low end", "high end")):
            values = [100 * shown[name][index] for name in names]
            axes.barh(names, values, label=end, alpha=0.8)
        axes.axvline(0, color="0.3", linewidth=0.8)
        axes.set_title(result.replace(": ", "\n"), fontsize=9)
        axes.set_xlabel("change in %")
    grid[0].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)

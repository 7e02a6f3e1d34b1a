"""Interleaved timing, and figures with their targets, printed as a table or as JSON.

A machine's speed drifts during a measurement, so only ratios within one run are meaningful. The
variants to compare therefore run in turn, several times, and their medians are compared.
"""

from __future__ import annotations

import contextlib
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from dskd_ds.errors import InputError
from dskd_ds.files.atomic import write_text
from dskd_ds.files.output import check_can_write, writing_output

REPEATS = 5
"""Number of measured runs of each variant."""


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    key: str
    """Its name in the JSON."""
    what: str
    """What is compared with what, in words for the table."""
    value: float
    target: float | None = None
    """The value that it should reach; None if it is only reported."""
    better: Literal["higher", "lower"] = "higher"
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Sizes, absolute numbers and floors behind the value."""

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None if there is no target."""
        if self.target is None:
            return None
        if self.better == "higher":
            return self.value >= self.target
        return self.value <= self.target


def interleaved_seconds(
    variants: Mapping[str, Callable[[], object]], repeats: int = REPEATS, warm_up: bool = True
) -> dict[str, float]:
    """Return the median seconds of each variant; the variants run in turn, `repeats` times.

    With warm_up each variant runs once more before that, unmeasured.
    """
    rounds = interleaved_rounds(variants, repeats, warm_up)
    return {name: statistics.median(values) for name, values in rounds.items()}


def interleaved_rounds(
    variants: Mapping[str, Callable[[], object]], repeats: int = REPEATS, warm_up: bool = True
) -> dict[str, list[float]]:
    """Return the seconds of each variant in every round; see `interleaved_seconds`."""
    if warm_up:
        for run in variants.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, run in variants.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def run_benches(
    benches: Mapping[str, Callable[[], list[Figure]]], only: Sequence[str]
) -> list[Figure]:
    """Run all benches, or those named in `only`, and print each name to stderr.

    Raises InputError for an unknown name.
    """
    if unknown := [name for name in only if name not in benches]:
        raise InputError(
            f"--only {unknown[0]}: unknown bench.\n  use one of: {', '.join(benches)}."
        )
    figures: list[Figure] = []
    for name in only or benches:
        print(f"bench {name} ...", file=sys.stderr, flush=True)
        figures += benches[name]()
    return figures


def run_and_print(
    benches: Mapping[str, Callable[[], list[Figure]]],
    only: Sequence[str],
    json_wanted: bool,
    output: str | None = None,
) -> None:
    """Run benches and print their figures to stdout; everything else is printed to stderr.

    output: file to write the JSON into too. Raises InputError for an unknown name in `only`, or,
    before it measures anything, if the file cannot be written.
    """
    if output is not None:
        check_can_write(Path(output))
    with contextlib.redirect_stdout(sys.stderr):
        figures = run_benches(benches, only)
    if output is not None:
        with writing_output(Path(output)):
            write_text(Path(output), as_json(figures))
    print(as_json(figures) if json_wanted else table(figures))


def table(figures: Sequence[Figure]) -> str:
    """Return a table with one line per figure, followed by its notes.

    The columns are key, value, target, whether the target is reached, and what was measured.
    """
    lines = [f"{'figure':<24}{'value':>10}{'target':>12}  {'':<8}what"]
    for figure in figures:
        sign = ">=" if figure.better == "higher" else "<="
        target = "" if figure.target is None else f"{sign} {figure.target:g}"
        verdict = {True: "reached", False: "MISSED", None: ""}[figure.reached]
        numbers = f"{figure.key:<24}{figure.value:>10.4g}{target:>12}"
        lines.append(f"{numbers}  {verdict:<8}{figure.what}")
        lines += [f"{'':<24}  {name}: {value}" for name, value in figure.notes.items()]
    return "\n".join(lines)


def as_json(figures: Sequence[Figure]) -> str:
    """Return `{key: value, ..., "details": {...}, "setup": {...}}`.

    `setup` holds the torch version and threads, because ratios depend on them.
    """
    details = {
        figure.key: {
            "what": figure.what,
            "target": figure.target,
            "better": figure.better,
            "reached": figure.reached,
            **figure.notes,
        }
        for figure in figures
    }
    setup = {"torch_threads": torch.get_num_threads(), "torch": torch.__version__}
    values: dict[str, float | None] = {}
    for figure in figures:
        # JSON has no NaN or infinity.
        values[figure.key] = figure.value if math.isfinite(figure.value) else None
    return json.dumps({**values, "details": details, "setup": setup}, indent=1)

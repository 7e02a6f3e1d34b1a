"""Interleaved timing, and figures with their targets, as a table and as JSON.

A machine's speed drifts while one measures, so only ratios within one run count: the ways are run in turn, many times, and the
medians are compared.
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
from typing import Any, Literal

import torch

from dskd_ds.errors import InputError

REPEATS = 5


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    key: str
    """Its name in the JSON."""
    what: str
    """What was compared with what, in words for the table."""
    value: float
    target: float | None = None
    """What it should reach; None: reported only."""
    better: Literal["higher", "lower"] = "higher"
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Sizes, absolute numbers and floors, for whoever wants to know more."""

    @property
    def reached(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        return self.value >= self.target if self.better == "higher" else self.value <= self.target


def interleaved_seconds(
    ways: Mapping[str, Callable[[], object]], repeats: int = REPEATS, warm_up: bool = True
) -> dict[str, float]:
    """Median seconds of each way, run in turn `repeats` times (one more before that, not counted, if warm_up)."""
    if warm_up:
        for way in ways.values():
            way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def run_benches(
    benches: Mapping[str, Callable[[], list[Figure]]], only: Sequence[str]
) -> list[Figure]:
    """Run the benches (or those named in `only`), saying which. Raises InputError for an unknown name."""
    if unknown := [name for name in only if name not in benches]:
        raise InputError(
            f"--only {unknown[0]}: there is no such bench.\n  there are: {', '.join(benches)}."
        )
    figures: list[Figure] = []
    for name in only or benches:
        print(f"bench {name} ...", file=sys.stderr, flush=True)
        figures += benches[name]()
    return figures


def run_and_print(
    benches: Mapping[str, Callable[[], list[Figure]]], only: Sequence[str], json_wanted: bool
) -> None:
    """Run benches and print their figures on stdout; what is said meanwhile goes to stderr. Raises InputError."""
    with contextlib.redirect_stdout(sys.stderr):
        figures = run_benches(benches, only)
    print(as_json(figures) if json_wanted else table(figures))


def table(figures: Sequence[Figure]) -> str:
    """One line a figure: key, value, target, whether it is reached, what was measured; then the notes."""
    lines = [f"{'figure':<24}{'value':>10}{'target':>12}  {'':<8}what"]
    for figure in figures:
        sign = ">=" if figure.better == "higher" else "<="
        target = "" if figure.target is None else f"{sign} {figure.target:g}"
        verdict = {True: "reached", False: "SHORT", None: ""}[figure.reached]
        lines.append(
            f"{figure.key:<24}{figure.value:>10.4g}{target:>12}  {verdict:<8}{figure.what}"
        )
        lines += [f"{'':<24}  {name}: {value}" for name, value in figure.notes.items()]
    return "\n".join(lines)


def as_json(figures: Sequence[Figure]) -> str:
    """`{key: value, ..., "details": {...}}`, with the set-up that a ratio depends on."""
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
    values = {
        figure.key: figure.value if math.isfinite(figure.value) else None for figure in figures
    }  # JSON knows no NaN
    return json.dumps({**values, "details": details, "setup": setup}, indent=1)

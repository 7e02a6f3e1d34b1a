"""Compares the step of each kind of loss below the head with the step of KL alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from dskd_ds.bench.measure import Figure
from dskd_ds.bench.one_rank import measure_in_one_rank
from dskd_ds.bench.real_text import PLAIN_TRAINING, QUICKSTART

TARGET = 1.10
PAIRS = 10
SETTINGS = (
    "topology.num_students=1",
    "topology.num_teachers=0",
    "topology.threads_per_rank=1",
    "train.global_batch_blocks=2",
    "loss.ce_weight=0",
    "loss.kd_weight=1",
    *PLAIN_TRAINING,
    "loss.sense_weight=0",
    "senses.retrieve_on=student",
)
"""Two blocks are what each of the quickstart's students reads in a step."""


def measure(spec_file: str, overrides: Sequence[str] = (), rounds: int = PAIRS) -> dict[str, Any]:
    """Return what bench/terms_loop.py measured in a process of its own.

    Raises InputError if the student does not exist, BenchError if the process fails.
    """
    settings = [*SETTINGS, *overrides]
    return measure_in_one_rank("terms", "dskd_ds.bench.terms_loop", spec_file, settings, rounds)


def figures(measured: dict[str, Any]) -> list[Figure]:
    """Return a ratio per kind: the median over the pairs."""
    return [_figure(name, found, measured) for name, found in measured["kinds"].items()]


def _figure(name: str, found: dict[str, list[float]], measured: dict[str, Any]) -> Figure:
    pairs = zip(found["seconds"], found["kl_seconds"], strict=True)
    ratios = sorted(seconds / alone for seconds, alone in pairs)
    prepared = statistics.median(found["prepare_seconds"])
    # Of 10 values, the second smallest and the second largest enclose the median of their
    # distribution with probability 0.979, whatever the distribution is.
    interval = (
        f"{ratios[1]:.3f} to {ratios[-2]:.3f}"
        if len(ratios) == PAIRS
        else f"known for {PAIRS} pairs only"
    )
    return Figure(
        key=f"term_time_{name}",
        what=f"time per step: KL and the term {name} / KL alone",
        value=statistics.median(ratios),
        target=TARGET,
        better="lower",
        notes={
            "97.9 % interval of the median": interval,
            "ratio of each pair": ", ".join(f"{ratio:.3f}" for ratio in ratios),
            "seconds of a step with KL alone": f"{statistics.median(found['kl_seconds']):.3f}",
            "of them to prepare the input, in a thread beside": f"{prepared:.3f}",
            "student's layer": measured["student_layer"],
            "tokens per step": measured["num_tokens"],
        },
    )


def bench_terms() -> list[Figure]:
    """Return the figures of the quickstart's models."""
    return figures(measure(QUICKSTART))


BENCHES: dict[str, Callable[[], list[Figure]]] = {"terms": bench_terms}

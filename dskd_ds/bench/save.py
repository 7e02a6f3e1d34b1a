"""Compares asynchronous saves of the quickstart's student with synchronous ones."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from dskd_ds.bench.measure import REPEATS, Figure
from dskd_ds.bench.one_rank import measure_in_one_rank
from dskd_ds.bench.real_text import PLAIN_TRAINING, QUICKSTART

BLOCKED_TARGET, SLOWDOWN_TARGET = 0.1, 0.5
SETTINGS = (
    "topology.num_students=1",
    "topology.num_teachers=0",
    "topology.threads_per_rank=1",
    "train.global_batch_blocks=1",
    "checkpoint.keep=1",
    *PLAIN_TRAINING,
)


def measure(spec_file: str, overrides: Sequence[str] = (), rounds: int = REPEATS) -> dict[str, Any]:
    """Return what bench/save_loop.py measured in a process of its own.

    Raises InputError if the student does not exist, BenchError if the process fails.
    """
    settings = [*SETTINGS, *overrides]
    return measure_in_one_rank("save", "dskd_ds.bench.save_loop", spec_file, settings, rounds)


def figures(measured: dict[str, Any]) -> list[Figure]:
    """Return both ratios: medians over the pairs of one round each."""
    rounds = measured["rounds"]
    plain, waited, threaded = (
        rounds[variant] for variant in ("none", "synchronous", "asynchronous")
    )
    blocked: list[float] = []
    slowdown: list[float] = []
    for without, before, after in zip(plain, waited, threaded, strict=True):
        blocked.append(after["blocked_seconds"] / before["blocked_seconds"])
        added = before["seconds"] - without["seconds"]
        slowdown.append((after["seconds"] - without["seconds"]) / added)
    notes = {
        "checkpoint_bytes": measured["checkpoint_bytes"],
        "steps_per_round": measured["num_steps"],
        "step_seconds": round(measured["step_seconds"], 4),
        "threads": measured["threads"],
        "synchronous_save_seconds": _median(waited, "blocked_seconds"),
        "asynchronous_blocked_seconds": _median(threaded, "blocked_seconds"),
    }
    return [
        Figure(
            key="async_save_blocked",
            what="time in saves of the training thread: asynchronous / synchronous",
            value=statistics.median(blocked),
            target=BLOCKED_TARGET,
            better="lower",
            notes=notes | {"of_each_pair": [round(ratio, 3) for ratio in blocked]},
        ),
        Figure(
            key="async_save_slowdown",
            what="time that a save adds to the steps around it: asynchronous / synchronous",
            value=statistics.median(slowdown),
            target=SLOWDOWN_TARGET,
            better="lower",
            notes={"of_each_pair": [round(ratio, 3) for ratio in slowdown]},
        ),
    ]


def _median(rounds: list[dict[str, float]], key: str) -> float:
    return round(statistics.median(measured[key] for measured in rounds), 3)


def bench_save() -> list[Figure]:
    """Return the figures of saves of the quickstart's student."""
    return figures(measure(QUICKSTART))


BENCHES: dict[str, Callable[[], list[Figure]]] = {"save": bench_save}

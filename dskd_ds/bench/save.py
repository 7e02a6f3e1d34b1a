"""Compares asynchronous saves of the quickstart's student with synchronous ones."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dskd_ds.bench.follow import BenchError
from dskd_ds.bench.measure import REPEATS, Figure
from dskd_ds.bench.real_text import QUICKSTART
from dskd_ds.errors import InputError
from dskd_ds.runtime.arguments import override_argv
from dskd_ds.runtime.console import child_environment
from dskd_ds.runtime.launch import free_port
from dskd_ds.spec import load_spec
from dskd_ds.student.depth import INIT_FOLDER

BLOCKED_TARGET, SLOWDOWN_TARGET = 0.1, 0.5
LOG_TAIL_CHARACTERS = 3000
SETTINGS = (
    "topology.num_students=1",
    "topology.num_teachers=0",
    "topology.threads_per_rank=1",
    "train.global_batch_blocks=1",
    "checkpoint.keep=1",
)


def measure(spec_file: str, overrides: Sequence[str] = (), rounds: int = REPEATS) -> dict[str, Any]:
    """Return what bench/save_loop.py measured in a process of its own.

    Raises InputError if the student does not exist, BenchError if the process fails.
    """
    settings = [*SETTINGS, *overrides]
    student = Path(load_spec(spec_file, settings).run_dir, INIT_FOLDER)
    if not student.is_dir():
        raise InputError(
            f"{student}: the bench of saves needs this student, which does not exist yet.\n"
            "  run make quickstart first (or name other benches: dskd bench --only NAME)."
        )
    with tempfile.TemporaryDirectory(prefix="dskd-bench-") as folder:
        run_dir, output = Path(folder, "run"), Path(folder, "measured.json")
        run_dir.mkdir()
        (run_dir / INIT_FOLDER).symlink_to(student.resolve())
        command = [sys.executable, "-m", "dskd_ds.bench.save_loop", "--spec", spec_file]
        command += ["--output", str(output), "--rounds", str(rounds)]
        command += override_argv([*settings, f"run_dir={run_dir}"])
        done = subprocess.run(command, env=_environment(), capture_output=True, text=True)
        if done.returncode != 0:
            log = (done.stdout + done.stderr)[-LOG_TAIL_CHARACTERS:]
            raise BenchError(f"bench save: it ended with exit code {done.returncode}.\n{log}")
        measured: dict[str, Any] = json.loads(output.read_text())
        return measured


def _environment() -> dict[str, str]:
    """Return the variables of a launch with one rank."""
    variables = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    master = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return child_environment(os.environ) | variables | master


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

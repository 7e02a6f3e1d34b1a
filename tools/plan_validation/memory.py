"""Part a: the memory of student ranks, predicted and measured in real DeepSpeed runs here.

What was measured is kept in tools/studies/plan_memory_runs.json, and only missing runs are
started: each is a small gloo world of its own (memory_runs.py) and takes a minute. Delete the file
to measure everything again.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from dskd_ds.bench.step import LIVE_ALLOCATOR
from dskd_ds.costs.memory import student_memory
from dskd_ds.costs.run_shapes import run_shapes
from dskd_ds.runtime.console import CPU_ALLOCATOR
from tools.plan_validation.case import Case, case_spec, model_folder
from tools.plan_validation.finding import Finding, Table, Target, percent

Allocator = Literal["live", "heap"]
RUNS = Path(__file__).resolve().parents[1] / "studies/plan_memory_runs.json"
MB = 1e6
FREED = "freed, kept by the heap"
STAGE_2, STAGE_0 = "deepspeed=ds_configs/zero2.json", "deepspeed=ds_configs/zero0.json"
FOUR_RANKS = ["topology.num_students=4", "train.global_batch_blocks=4"]
CASES = [
    Case("base", overrides=["data.block_tokens=64"]),
    Case("one rank", overrides=["data.block_tokens=64", "topology.num_students=1"]),
    Case("stage 2", overrides=["data.block_tokens=64", STAGE_2]),
    Case("larger", hidden=768, width=2304, vocab=16_000, overrides=["data.block_tokens=256"]),
    Case(
        "exact, untied",
        tied=False,
        overrides=["data.block_tokens=256", "loss.signal=exact", "loss.chunk_positions=256"],
    ),
    Case(
        "checkpointing",
        hidden=640,
        width=1920,
        layers=10,
        vocab=24_000,
        overrides=["data.block_tokens=512", "student.activation_checkpointing=true"],
        held_out=True,
    ),
    Case(
        "stage 0, small chunks",
        overrides=["data.block_tokens=128", "loss.chunk_positions=64", STAGE_0],
        held_out=True,
    ),
    Case(
        "four ranks, sampled, senses",
        hidden=768,
        width=2048,
        layers=9,
        vocab=20_000,
        overrides=["data.block_tokens=256", "loss.signal=sampled", *FOUR_RANKS],
        sense_positions=100,
        held_out=True,
    ),
]
"""Eight runs; no constant was chosen with a look at those held out."""


def validate() -> Finding:
    """Measure what is missing, and compare."""
    measured = json.loads(RUNS.read_text(encoding="utf-8")) if RUNS.is_file() else {}
    with tempfile.TemporaryDirectory(prefix="plan-memory-") as folder:
        for case in CASES:
            for allocator in ("live", "heap"):
                key = f"{case.name} ({allocator})"
                if key not in measured:
                    measured[key] = measure(case, allocator, Path(folder))
                    RUNS.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    return compare(measured)


def measure(case: Case, allocator: Allocator, folder: Path) -> dict[str, Any]:
    """Run a case in processes of its own. Raises CalledProcessError if it fails."""
    settings = CPU_ALLOCATOR if allocator == "heap" else LIVE_ALLOCATOR
    env = dict(os.environ) | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    for name, value in settings.items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    command = [sys.executable, "-m", "tools.plan_validation.memory_runs"]
    command += ["--folder", str(folder), "--case", json.dumps(asdict(case))]
    ended = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return {"peak": found["peak"], "moments": found["moments"]}


def compare(measured: dict[str, Any]) -> Finding:
    """Return what the runs that were measured show."""
    rows: list[list[str | float | int]] = []
    errors: dict[tuple[Allocator, bool], list[float]] = {}
    allocators: tuple[Allocator, ...] = ("live", "heap")
    with tempfile.TemporaryDirectory(prefix="plan-memory-") as folder:
        for case in CASES:
            predicted = predict(case, Path(folder))
            for allocator in allocators:
                run = measured.get(f"{case.name} ({allocator})")
                if run is None:
                    continue
                error = predicted[allocator] / run["peak"] - 1
                errors.setdefault((allocator, case.held_out), []).append(abs(error))
                use = "held out" if case.held_out else "fitted on"
                peak, here = run["peak"] / MB, predicted[allocator] / MB
                rows.append([case.name, allocator, use, peak, here, percent(error)])
    held_out = errors.get(("live", True), [])
    median = statistics.median(held_out) if held_out else None
    worst = max(held_out, default=None)
    columns = ["run", "allocator", "use", "measured (MB)", "predicted (MB)", "error"]
    explanation = (
        "Largest resident memory of a rank beyond what it had before it made the engine, over"
        ' three steps. "live": with an allocator that returns freed memory at once, so the peak is'
        ' of what is in use. "heap": with the settings of a run on a CPU, where freed memory stays.'
    )
    return Finding(
        part="a",
        title="memory of student ranks on this machine",
        targets=[
            Target("held-out runs, what is in use: median error", 0.10, median),
            Target("held-out runs, what is in use: worst error", 0.20, worst),
        ],
        tables=[Table("Runs", explanation, columns, rows)],
        remarks=_remarks(measured, bool(held_out)),
    )


def predict(case: Case, folder: Path) -> dict[Allocator, float]:
    """Return the predicted bytes of a case: in use, and with what the heap keeps."""
    spec = case_spec(case, model_folder(case, folder))
    memory = student_memory(spec, run_shapes(spec), "cpu", 0.0)
    return {"live": memory.total - memory.parts[FREED], "heap": memory.total}


def _remarks(measured: dict[str, Any], has_held_out: bool) -> list[str]:
    """Return what a reader must know about the runs."""
    remarks = [
        f"{len(measured)} of {2 * len(CASES)} runs were measured.",
        "The plan of a CPU run counts freed memory as a fixed share (HEAP_SHARE), which differs"
        " from run to run: use the prediction for a CPU with care. GPUs are not affected.",
    ]
    if not has_held_out:
        remarks.append(
            "No run that is held out was measured yet. Run"
            " `python -m tools.validate_plan --parts a` on a quiet machine (20 minutes)."
        )
    return remarks

"""Makes the real runs that part d compares the simulator with: a slow teacher, a killed teacher.

    python -m tools.plan_validation.fault_runs

Two students under ZeRO-3 and two teachers as processes of their own train a tiny model. The
teachers sleep until each forward pass has taken a given time (slow_teacher.py). What
metrics.jsonl says of every step is kept in tools/studies/fault_runs.json.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import tomli_w

from dskd_ds.link.keys import read_addresses
from dskd_ds.observe.metrics import METRICS_FILE, read_metrics
from tests.conftest import spec_tree, write_model, write_text, write_wordnet

RUNS_FILE = Path(__file__).resolve().parent.parent / "studies" / "fault_runs.json"
NUM_STEPS = 36
HEARTBEAT = 0.25
DEAD_AFTER = 3.0
POLL_SECONDS = 0.02
PATIENCE_SECONDS = 400.0


@dataclass(frozen=True)
class FaultRun:
    """One real run: its settings, and what was measured."""

    name: str
    teacher_seconds: list[float]
    """Of a forward pass, by teacher."""
    kill_after_steps: int
    """When teacher 1 is killed; 0: never."""
    step_seconds: list[float]
    teacher_wait_seconds: list[float]
    killed_at: float | None
    """Seconds of steps that were over when teacher 1 was killed."""
    num_students: int = 2
    num_micro_batches: int = 2
    prefetch_depth: int = 2
    credits: int = 2
    dead_after: float = DEAD_AFTER


def main() -> None:
    """Make both runs and keep them."""
    runs = [
        run("a slow teacher", [0.6, 1.8], kill_after_steps=0),
        run("a killed teacher", [0.6, 0.6], kill_after_steps=14),
    ]
    RUNS_FILE.write_text(
        json.dumps([asdict(each) for each in runs], indent=1) + "\n", encoding="utf-8"
    )


def read_runs() -> list[FaultRun]:
    """Return the runs that were made; none if there are none."""
    if not RUNS_FILE.is_file():
        return []
    return [FaultRun(**content) for content in json.loads(RUNS_FILE.read_text(encoding="utf-8"))]


def run(name: str, teacher_seconds: list[float], kill_after_steps: int) -> FaultRun:
    """Make one run."""
    with tempfile.TemporaryDirectory() as folder:
        spec_file = _write_world(Path(folder))
        run_dir = Path(folder) / "run"
        killed_at = _train(spec_file, run_dir, teacher_seconds, kill_after_steps)
        records = read_metrics(run_dir)
    if len(records) != NUM_STEPS:
        raise SystemExit(f"the training has recorded {len(records)} of {NUM_STEPS} steps")
    return FaultRun(
        name=name,
        teacher_seconds=teacher_seconds,
        kill_after_steps=kill_after_steps,
        step_seconds=[round(record["step_seconds"], 4) for record in records],
        teacher_wait_seconds=[round(record["teacher_wait_seconds"], 4) for record in records],
        killed_at=killed_at,
    )


def _write_world(folder: Path) -> Path:
    """Write model, text and spec of a tiny run without senses."""
    write_text(folder)
    write_wordnet(folder / "wordnet")
    write_model(folder / "teacher", folder, num_layers=4, seed=0)
    tree = spec_tree(folder)
    tree |= {
        "student": {"layers": "first", "num_layers": 2, "dtype": "float32"},
        "loss": {"top_k": 16, "sense_weight": 0.0},
        "train": {"num_steps": NUM_STEPS, "global_batch_blocks": 4},
        "topology": {"num_students": 2, "num_teachers": 0},
        "checkpoint": {"every_steps": 0, "every_minutes": 0},
        "link": {"heartbeat_seconds": HEARTBEAT, "dead_after_seconds": DEAD_AFTER},
    }
    spec_file = folder / "spec.toml"
    spec_file.write_text(tomli_w.dumps(tree), encoding="utf-8")
    return spec_file


def _train(
    spec_file: Path, run_dir: Path, teacher_seconds: list[float], kill_after_steps: int
) -> float | None:
    """Train with the teachers; return when teacher 1 was killed, in seconds of steps."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DSKD_HOME": str(run_dir.parent / "home")}
    port = _free_port()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launcher += ["--master_port", str(port), "dskd_ds/train.py", "--spec", str(spec_file)]
    processes = [subprocess.Popen(launcher, env=environment)]
    try:
        _wait_for(lambda: len(read_addresses(run_dir)) == 2, processes[0])
        for number, seconds in enumerate(teacher_seconds):
            teacher = [sys.executable, "-m", "tools.plan_validation.slow_teacher", str(seconds)]
            teacher += ["--spec", str(spec_file), "--replica", str(number)]
            processes.append(subprocess.Popen(teacher, env=environment))
        killed_at = None
        if kill_after_steps:
            metrics = run_dir / METRICS_FILE
            _wait_for(lambda: _num_lines(metrics) >= kill_after_steps, processes[0])
            processes[2].kill()
            records = read_metrics(run_dir)
            killed_at = round(sum(record["step_seconds"] for record in records), 4)
        if processes[0].wait(PATIENCE_SECONDS) != 0:
            raise SystemExit("the training failed")
        return killed_at
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
            process.wait(60)


def _num_lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else 0


def _wait_for(condition: object, process: subprocess.Popen[bytes]) -> None:
    """Wait until a condition holds."""
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("the training ended too early, or nothing happened")
        time.sleep(POLL_SECONDS)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    main()

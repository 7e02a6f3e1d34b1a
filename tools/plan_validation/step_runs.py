"""Makes the real runs whose step times part b compares with the plan.

    python -m tools.plan_validation.step_runs

SmolLM2-135M is the teacher; the student has some of its layers. One student and one teacher train
here, each on a core of its own, and metrics.jsonl says how long every step took. The machine's
speeds are measured in the same call. Leave the machine alone meanwhile (10 minutes).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dskd_ds.bench.calibrate import calibrate
from dskd_ds.bench.real_text import PLAIN_TRAINING, QUICKSTART
from dskd_ds.costs.calibration import Measured
from dskd_ds.observe.metrics import read_metrics
from dskd_ds.runtime.arguments import override_argv
from dskd_ds.runtime.launch import free_port

RUNS_FILE = Path(__file__).resolve().parent.parent / "studies" / "plan_step_runs.json"
NUM_STEPS, WARM_UP_STEPS = 9, 3
COMMON = [
    "loss.sense_weight=0",
    "student.layers=first",
    f"train.num_steps={NUM_STEPS}",
    "topology.num_students=1",
    "topology.num_teachers=1",
    "checkpoint.every_minutes=0",
    "monitor.tensorboard=false",
    *PLAIN_TRAINING,
]


@dataclass(frozen=True)
class StepCase:
    """A run whose step time is measured."""

    name: str
    num_layers: int
    """Of the student; the teacher has 30."""
    overrides: list[str] = field(default_factory=list)
    gives_flip: bool = False
    """Whether the run differs from the others of its kind in the student's layers only."""

    @property
    def settings(self) -> list[str]:
        """All overrides of the base spec."""
        return [*COMMON, f"student.num_layers={self.num_layers}", *self.overrides]


LAST_TWO = ["student.train_last_layers=2"]
CASES = (
    StepCase("4 layers, the last 2 trained", 4, LAST_TWO, gives_flip=True),
    StepCase("14 layers, the last 2 trained", 14, LAST_TWO, gives_flip=True),
    StepCase("28 layers, the last 2 trained", 28, LAST_TWO, gives_flip=True),
    StepCase("20 layers", 20),
    StepCase("12 layers, recomputed", 12, ["student.activation_checkpointing=true"]),
    StepCase("12 layers, rows of 512 tokens", 12, ["data.block_tokens=512"]),
)


@dataclass(frozen=True)
class StepRun:
    """What a run measured: medians over the steps after the warm-up."""

    step_seconds: float
    own_seconds: float
    """Without waiting for the teacher."""


@dataclass(frozen=True)
class StepRuns:
    """All runs that were made, and the speeds of the machine that they were made on."""

    machine: Measured
    runs: dict[str, StepRun]


def main() -> None:
    """Measure the machine and all runs, and keep what was measured."""
    machine = calibrate()
    runs = {}
    with tempfile.TemporaryDirectory(prefix="plan-steps-") as folder:
        for number, case in enumerate(CASES):
            runs[case.name] = run(case, Path(folder) / str(number))
            print(f"{case.name}: {runs[case.name].step_seconds:.2f} s per step", flush=True)
    RUNS_FILE.write_text(
        json.dumps(asdict(StepRuns(machine, runs)), indent=1) + "\n", encoding="utf-8"
    )


def read_runs() -> StepRuns | None:
    """Return what was measured; None if nothing was."""
    if not RUNS_FILE.is_file():
        return None
    content = json.loads(RUNS_FILE.read_text(encoding="utf-8"))
    runs = {name: StepRun(**values) for name, values in content["runs"].items()}
    return StepRuns(Measured(**content["machine"]), runs)


def run(case: StepCase, run_dir: Path) -> StepRun:
    """Train, and return the times. Raises CalledProcessError if the training fails."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launcher += ["--master_port", str(free_port()), "dskd_ds/train.py", "--spec", QUICKSTART]
    overrides = override_argv([f"run_dir={run_dir}", *case.settings])
    subprocess.run([*launcher, *overrides], env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
    records = read_metrics(run_dir)[WARM_UP_STEPS:]
    return StepRun(
        step_seconds=statistics.median(record["step_seconds"] for record in records),
        own_seconds=statistics.median(
            record["step_seconds"] - record["teacher_wait_seconds"] for record in records
        ),
    )


if __name__ == "__main__":
    main()

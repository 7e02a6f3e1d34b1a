"""The cluster and the tiny runs that the tests submit to it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from dskd_ds.commands.status import read_status
from dskd_ds.observe.attempts import read_attempts
from dskd_ds.observe.metrics import METRICS_FILE, read_lines, read_metrics
from dskd_ds.runtime.console import child_environment
from tests.conftest import TinyWorld
from tests.processes.conftest import children_with, ranks, warm_dskd
from tests.processes.warm import WarmServer
from tests.processes.warm_rank import SOCKET_VARIABLE
from tests.slurm.cluster import Cluster, missing_programs

NUM_STEPS = 48
EXACT = ("loss", "loss_ce", "loss_kd", "loss_sense", "grad_norm", "sense_positions")
"""Values of metrics.jsonl that do not depend on time."""
SBATCH = ("--ntasks-per-node=1", "--signal-seconds=30", "--time=10")
"""Options of all submissions: three nodes for two students and a teacher."""

WAITING_OR_RUNNING = ("PENDING", "RUNNING", "COMPLETING", "REQUEUED")


@pytest.fixture(scope="session")
def cluster(worker_id: str) -> Iterator[Cluster]:
    """A SLURM of three nodes, for the whole session. No process of a job may outlive its job.

    worker_id: of pytest-xdist, `gw0`, ..., or `master`. Each worker has a cluster.
    """
    missing = missing_programs()
    if missing:
        pytest.fail(f"missing: {', '.join(missing)}; see tests/slurm/cluster.py")
    cluster = Cluster(number=int(worker_id.removeprefix("gw") if worker_id != "master" else 0))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


class Runs:
    """Submits runs of one spec and looks at what they left.

    What runs on the login node is a warm process (tests/processes/warm.py). The jobs are not.
    """

    def __init__(self, cluster: Cluster, tiny: TinyWorld, spec_file: Path) -> None:
        self.cluster, self.spec_file = cluster, spec_file
        self.env = (
            child_environment(os.environ)
            | cluster.env
            | {"DSKD_HOME": str(tiny.folder / "home"), "OMP_NUM_THREADS": "1"}
        )
        self._warm_server = WarmServer(tiny.folder, self.env)

    def close(self) -> None:
        """End the server of warm processes."""
        self._warm_server.close()

    def dskd(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a dskd command on the login node."""
        return self.on_login_node(warm_dskd(*argv))

    def on_login_node(self, argv: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command line of warm processes."""
        env = self.env | {SOCKET_VARIABLE: self._warm_server.address}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=480)
        print(done.stderr[-3000:])
        return done

    def submit(self, run_dir: Path, *argv: str) -> list[str]:
        """Submit a run and return the numbers of its jobs."""
        options = ("--set", f"run_dir={run_dir}", *SBATCH)
        done = self.dskd("submit", str(self.spec_file), *options, *argv)
        assert done.returncode == 0
        lines = done.stdout.splitlines()
        return [line.split(": job ")[1].split(",")[0] for line in lines if ": job " in line]

    def wait_for_step(self, run_dir: Path, step: int, job_id: str) -> None:
        """Wait until a run has recorded a step; fails if its job ends before."""

        def is_there() -> bool:
            state = self.cluster.job_field(job_id, "JobState")
            assert state in WAITING_OR_RUNNING, f"{state}\n{log_of(run_dir)}"
            lines = read_lines(run_dir / METRICS_FILE) if run_dir.is_dir() else []
            return len(lines) >= step

        self.cluster.wait_until(is_there, f"step {step} of {run_dir}")

    def wait_for_attempt(self, run_dir: Path, number: int, job_id: str) -> None:
        """Wait until a job has begun an attempt; fails if the job ends before."""

        def has_begun() -> bool:
            state = self.cluster.job_field(job_id, "JobState")
            assert state in WAITING_OR_RUNNING, f"{state}\n{log_of(run_dir)}"
            return number in [attempt.number for attempt in read_attempts(run_dir)]

        self.cluster.wait_until(has_begun, f"attempt {number} of {run_dir}")

    def wait_for_end(self, run_dir: Path, job_id: str) -> str:
        """Wait until a job has ended for good, and its processes too; returns its state."""
        state = self.cluster.wait_for_end(job_id)
        print(log_of(run_dir))
        self.cluster.wait_until(lambda: not self.left_processes(), "all processes have ended")
        return state

    def left_processes(self) -> list[int]:
        """Return the processes of the tiny world that still run, on any node."""
        return children_with(str(self.spec_file))


def log_of(run_dir: Path) -> str:
    """Return what all attempts of a run have printed."""
    paths = [path for path in sorted(run_dir.glob("attempts/**/*")) if path.is_file()]
    return "\n".join(f"== {path}\n{path.read_text(errors='replace')[-3000:]}" for path in paths)


def exact_losses(run_dir: Path) -> list[dict[str, float]]:
    """Return the recorded values of each step that do not depend on time."""
    records = read_metrics(run_dir)
    assert [record["step"] for record in records] == list(range(1, NUM_STEPS + 1))
    return [{key: record[key] for key in EXACT} for record in records]


def weights(run_dir: Path) -> bytes:
    """Return the trained student's weights."""
    return (run_dir / "student" / "model.safetensors").read_bytes()


def reasons(run_dir: Path) -> list[str | None]:
    """Return how each attempt of a run has ended; None for one that has not."""
    return [attempt.reason for attempt in read_attempts(run_dir)]


def status(run_dir: Path) -> dict[str, Any]:
    """Return what `dskd status RUN_DIR --json` prints about a run."""
    found: dict[str, Any] = json.loads(read_status(run_dir).model_dump_json())
    return found


def phases(found: dict[str, Any], role: str) -> list[str]:
    """Return the phases of all `students` or `teachers` of a status."""
    return [process["phase"] for node in found["nodes"] for process in node[role]]


@pytest.fixture(scope="session")
def runs(cluster: Cluster, tiny: TinyWorld) -> Iterator[Runs]:
    """A spec of 48 steps with two students, one teacher and senses."""
    tree = tiny.spec_tree() | {"train": {"num_steps": NUM_STEPS, "global_batch_blocks": 4}}
    spec_file = tiny.folder / "slurm.toml"
    spec_file.write_text(tomli_w.dumps(tree))
    runs = Runs(cluster, tiny, spec_file)
    yield runs
    runs.close()


@pytest.fixture(scope="session")
def one_machine(runs: Runs, tiny: TinyWorld) -> Path:
    """The run directory of the same run, launched by mpirun on one machine."""
    run_dir = tiny.folder / "one_machine"
    build = runs.dskd("senses", "build", str(runs.spec_file))
    assert build.returncode == 0
    argv = ["--spec", str(runs.spec_file), "--set", f"run_dir={run_dir}"]
    done = runs.on_login_node(ranks(3, "dskd_ds/train.py", *argv))
    assert done.returncode == 0, done.stderr
    return run_dir

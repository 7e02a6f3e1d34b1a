"""Runs whose teachers are killed.

All end with the weights of an undisturbed run. They have one student, separate teachers and no
launcher: little to start, and what is tested is the link.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from dskd_ds.observe.metrics import METRICS_FILE, read_metrics
from dskd_ds.runtime.arguments import override_argv
from dskd_ds.runtime.launch import free_port
from tests.conftest import TinyWorld
from tests.processes.conftest import PATIENCE_SECONDS, Start
from tests.seeds import seeds

# Slow: the runs of this file take more time than `make test` has; CI runs them.
pytestmark = [pytest.mark.process, pytest.mark.fault, pytest.mark.slow]
NUM_STEPS = 30
SETTLED_STEPS = 10
"""After so many steps a student's memory has reached its size."""
MOST_GROWTH = 1.1
DEADLINE_SECONDS = 15
"""Long enough for a teacher that only shares two cores with others."""
WEIGHTS = Path("student") / "model.safetensors"


def arguments_of(tiny: TinyWorld, run_dir: Path, *changes: str) -> list[str]:
    """Return the spec and the overrides that the student and its teachers share."""
    overrides = (
        f"run_dir={run_dir}",
        "loss.sense_weight=0",
        "student.layers=first",
        "topology.num_students=1",
        "topology.num_teachers=0",
        f"train.num_steps={NUM_STEPS}",
        "train.global_batch_blocks=2",
        "checkpoint.every_steps=0",
        "monitor.tensorboard=false",
        "link.heartbeat_seconds=0.5",
        "link.dead_after_seconds=3.0",
        f"link.deadline_seconds={DEADLINE_SECONDS}",
        *changes,
    )
    return ["--spec", str(tiny.spec_file), *override_argv(overrides)]


def student(argv: list[str]) -> list[str]:
    """Return the command of a world of one rank. Its port is free: other runs use the default."""
    variables = ["RANK=0", "WORLD_SIZE=1", "LOCAL_RANK=0", "LOCAL_WORLD_SIZE=1"]
    variables += ["MASTER_ADDR=127.0.0.1", f"MASTER_PORT={free_port()}"]
    return ["env", *variables, sys.executable, "dskd_ds/train.py", *argv]


def teacher(argv: list[str], replica: int) -> list[str]:
    return [sys.executable, "-m", "dskd_ds.teacher", *argv, "--replica", str(replica)]


class Watch:
    """Follows a student to its end; notes its memory at every look, and keeps what it prints."""

    def __init__(self, process: subprocess.Popen[str], run_dir: Path) -> None:
        self._process, self._metrics = process, run_dir / METRICS_FILE
        self._memory = psutil.Process(process.pid)
        self._read_bytes = 0
        self.num_steps = 0
        self.resident: dict[int, int] = {}
        """Number of steps -> the most resident bytes that were seen after so many."""
        self._printed: list[str] = []
        # A pipe that nobody reads would stop a student that prints much.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds or the student has ended."""
        end = time.monotonic() + PATIENCE_SECONDS
        while self._process.poll() is None and not condition():
            assert time.monotonic() < end, "the condition never held"
            self._look()
            time.sleep(0.02)

    def output(self) -> str:
        """Wait for the student's end and return what it printed."""
        self.until(lambda: False)
        self._reader.join(PATIENCE_SECONDS)
        return "".join(self._printed)

    def growth(self) -> float:
        """Return the most memory after SETTLED_STEPS, over that at the first look after them."""
        looks = sorted(steps for steps in self.resident if steps >= SETTLED_STEPS)
        settled = [self.resident[steps] for steps in looks]
        return max(settled) / settled[0]

    def _read(self) -> None:
        assert self._process.stdout is not None
        self._printed.extend(self._process.stdout)

    def _look(self) -> None:
        if self._metrics.is_file():
            with self._metrics.open("rb") as file:
                file.seek(self._read_bytes)
                new = file.read()
            self._read_bytes += len(new)
            self.num_steps += new.count(b"\n")
        try:
            resident = self._memory.memory_info().rss
        except psutil.NoSuchProcess:
            return
        self.resident[self.num_steps] = max(resident, self.resident.get(self.num_steps, 0))


def finish(process: subprocess.Popen[str], watch: Watch, exit_code: int = 0) -> str:
    """Wait for a student's end and return its output; its memory must not have grown."""
    output = watch.output()
    assert process.returncode == exit_code, output[-6000:]
    assert watch.growth() <= MOST_GROWTH
    return output


@pytest.fixture
def undisturbed(tiny: TinyWorld, start: Start) -> Path:
    """The folder of a finished run with one good teacher; trained once per session."""
    run_dir = tiny.folder / "undisturbed-link"
    if not run_dir.is_dir():
        argv = arguments_of(tiny, run_dir)
        helper, training = start(*teacher(argv, 0)), start(*student(argv))
        finish(training, Watch(training, run_dir))
        assert helper.wait(30) == 0
    return run_dir


def check_same(run_dir: Path, undisturbed: Path) -> None:
    """Every step came once and in order, and the weights are the same to the last bit."""
    assert [record["step"] for record in read_metrics(run_dir)] == list(range(1, NUM_STEPS + 1))
    assert (run_dir / WEIGHTS).read_bytes() == (undisturbed / WEIGHTS).read_bytes()


@pytest.mark.parametrize("seed", seeds(in_ci=2, in_soak=20))
def test_a_killed_teacher_does_not_change_the_weights(
    tiny: TinyWorld, start: Start, undisturbed: Path, seed: int
) -> None:
    """It is killed at any moment between the first step and the last but five."""
    run_dir = tiny.folder / f"killed-{seed}"
    argv = arguments_of(tiny, run_dir)
    draw = random.Random(seed)
    doomed, other = (start(*teacher(argv, replica)) for replica in (0, 1))
    training = start(*student(argv))
    watch = Watch(training, run_dir)
    step, moment = draw.randint(1, NUM_STEPS - 5), draw.random() * 0.2
    watch.until(lambda: watch.num_steps >= step)
    time.sleep(moment)
    doomed.send_signal(signal.SIGKILL)
    finish(training, watch)
    assert other.wait(30) == 0
    check_same(run_dir, undisturbed)

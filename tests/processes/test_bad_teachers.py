"""Runs whose teachers are killed, hang, are slow, or stay while the student starts again.

All end with the weights of an undisturbed run. They have one student, separate teachers and no
launcher: little to start, and what is tested is the link. Where its memory is measured, the student
is not a warm one.
"""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from dskd_ds.observe.metrics import METRICS_FILE, read_lines, read_metrics
from dskd_ds.observe.run_files import PROGRESS_FOLDER, TeacherHealth, read_records
from dskd_ds.runtime.arguments import override_argv
from dskd_ds.runtime.launch import free_port
from dskd_ds.runtime.supervise import SIGNAL_CODE_BASE
from dskd_ds.spec.processes import LinkSpec
from dskd_ds.student.run_lock import LEASE_FILE
from tests.conftest import TinyWorld
from tests.processes.conftest import PATIENCE_SECONDS, Start, wait_until
from tests.processes.warm import warm
from tests.seeds import count, is_soak, seeds

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
    """Return the command of a good teacher."""
    return warm([sys.executable, "-m", "dskd_ds.teacher", *argv, "--replica", str(replica)])


def bad_teacher(mode: str, gate: Path, argv: list[str], replica: int) -> list[str]:
    """Return the command of a teacher that is broken as tests/processes/bad_teacher.py says."""
    worker = [sys.executable, "-m", "tests.processes.bad_teacher", mode, str(gate)]
    return warm([*worker, *argv, "--replica", str(replica)])


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


def test_teachers_that_hang_fail_and_are_slow_do_not_change_the_weights(
    tiny: TinyWorld, start: Start, undisturbed: Path
) -> None:
    """One hangs and one fails after a few answers; the third is ten times slower than usual.

    The student comes last, so that all three are asked from the first step on.
    """
    run_dir = tiny.folder / "bad"
    argv = arguments_of(tiny, run_dir)
    modes = ("hangs", "breaks", "slow")
    hanging, broken, slow = (
        start(*bad_teacher(mode, tiny.folder / f"{mode}.gate", argv, replica))
        for replica, mode in enumerate(modes)
    )
    wait_until(partial(are_serving, run_dir, len(modes)), slow)
    training = start(*student(argv))
    output = finish(training, Watch(training, run_dir))
    hanging.kill()
    broken.kill()
    assert slow.wait(30) == 0
    assert f"has answered nothing for {DEADLINE_SECONDS} s, but is alive: it hangs" in output
    assert "refused 3 requests in a row, the last one because: RuntimeError: cuBLAS" in output
    check_same(run_dir, undisturbed)


def are_serving(run_dir: Path, num_teachers: int) -> bool:
    """Return whether so many teachers have loaded their model."""
    found = read_records(run_dir, f"{PROGRESS_FOLDER}/teacher-*.json", TeacherHealth)
    return sum(health.phase == "serving" for health in found.values()) == num_teachers


def test_teachers_killed_again_and_again_cost_only_what_they_held(
    tiny: TinyWorld, start: Start, record_property: Callable[[str, object], None]
) -> None:
    """In the soak one of two teachers is killed and replaced every 20 s, for three minutes.

    No step is repeated, and no more requests are sent again than were in flight.
    """
    num_kills = count(in_ci=2, in_soak=9)
    seconds = count(in_ci=2, in_soak=20)
    run_dir = tiny.folder / "killed-again"
    # More steps than there is time for: a signal stops the run when all kills are done.
    argv = arguments_of(tiny, run_dir, "train.num_steps=100000")
    present = [start(*teacher(argv, replica)) for replica in (0, 1)]
    training = start(*student(argv))
    watch = Watch(training, run_dir)
    for kill in range(num_kills):
        before, next_kill = watch.num_steps, time.monotonic() + seconds
        watch.until(partial(is_time_to_kill, watch, before, next_kill))
        leaving = present.pop(0)
        # Every other one may say goodbye.
        number = signal.SIGTERM if kill % 2 else signal.SIGKILL
        leaving.send_signal(number)
        assert leaving.wait(60) == (SIGNAL_CODE_BASE + number if kill % 2 else -number)
        present.append(start(*teacher(argv, kill + 2)))
    before = watch.num_steps
    watch.until(lambda: watch.num_steps > before + 2 * SETTLED_STEPS)
    training.send_signal(signal.SIGUSR1)
    output = finish(training, watch, exit_code=3)
    for process in present:
        process.kill()  # they wait for the student to come back
    found = [record["step"] for record in read_metrics(run_dir)]
    assert found == list(range(1, len(found) + 1))
    sent_again = [int(number) for number in re.findall(r"(\d+) requests go to another", output)]
    assert len(sent_again) <= num_kills
    assert max(sent_again, default=0) <= LinkSpec().credits
    record_property("kills", num_kills)
    record_property("steps", len(found))
    record_property("requests_sent_again", sum(sent_again))
    record_property("memory_growth", round(watch.growth(), 3))


def is_time_to_kill(watch: Watch, steps_before: int, next_kill: float) -> bool:
    """Return whether the student has trained since the last kill, and the time has come."""
    return time.monotonic() > next_kill and watch.num_steps > steps_before


SIGNALS = [signal.SIGKILL, signal.SIGTERM] if is_soak() else [signal.SIGKILL]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_one_teacher_serves_a_run_that_starts_again(
    tiny: TinyWorld, start: Start, undisturbed: Path, number: signal.Signals
) -> None:
    """A student that gets SIGTERM says that it comes back; one that gets SIGKILL says nothing."""
    run_dir = tiny.folder / f"restarted-{number.name}"
    argv = arguments_of(tiny, run_dir, "checkpoint.every_steps=5")
    helper = start(*teacher(argv, 0))
    first = start(*warm(student(argv)))
    lines = run_dir / METRICS_FILE
    wait_until(lambda: len(read_lines(lines)) >= 8, first)
    rank = psutil.Process(json.loads((run_dir / LEASE_FILE).read_text())["pid"])
    first.send_signal(number)
    assert first.wait(60) == (3 if number is signal.SIGTERM else -number)
    psutil.wait_procs([rank], timeout=60)
    second = start(*warm(student(argv)))
    output, _ = second.communicate(timeout=PATIENCE_SECONDS)
    assert second.returncode == 0, output
    assert read_metrics(run_dir)[-1]["attempt"] == 2
    assert helper.wait(30) == 0  # after the goodbye of the second student
    check_same(run_dir, undisturbed)

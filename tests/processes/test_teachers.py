"""Trainings whose teachers are processes of their own: one that joins late, and two of which one is killed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dskd_ds.link.keys import read_addresses
from dskd_ds.observe.metrics import METRICS_FILE, read_lines, read_metrics
from tests.conftest import TinyWorld
from tests.processes.conftest import PATIENCE_SECONDS, Launch, Start, deepspeed, dskd, torchrun

pytestmark = [pytest.mark.process, pytest.mark.fault]
NUM_STEPS = 24
EXACT = ("loss", "loss_ce", "loss_kd", "loss_sense", "grad_norm", "sense_positions")


def words_for(tiny: TinyWorld, run_dir: Path) -> list[str]:
    """The spec and the overrides that students and teachers share."""
    overrides = (
        f"run_dir={run_dir}",
        "topology.num_teachers=0",
        f"train.num_steps={NUM_STEPS}",
        "student.layers=first",
        "checkpoint.every_steps=0",
        "link.heartbeat_seconds=0.5",
        "link.dead_after_seconds=3.0",
    )
    return ["--spec", str(tiny.spec_file), *(word for key in overrides for word in ("--set", key))]


def teacher(words: list[str], replica: int) -> list[str]:
    return [sys.executable, "-m", "dskd_ds.teacher", *words, "--replica", str(replica)]


def wait_for(what: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Until `what` is there; fails if the process ends before that."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert process.poll() is None, "the training ended too early"
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


@pytest.fixture
def one_teacher(tiny: TinyWorld, start: Start, dictionary: Path) -> Path:
    """A finished run whose only teacher was started when the students were already waiting (once a session)."""
    run_dir = tiny.folder / "one_teacher"
    if not run_dir.is_dir():
        assert dictionary.is_dir()
        words = words_for(tiny, run_dir)
        students = start(*torchrun(2, "dskd_ds/train.py", *words))
        wait_for(lambda: len(read_addresses(run_dir)) == 2, students)
        late = start(*teacher(words, 0))
        assert students.wait(PATIENCE_SECONDS) == 0
        assert late.wait(30) == 0  # the students said goodbye
    return run_dir


def test_a_teacher_of_its_own_may_come_late(one_teacher: Path) -> None:
    records = read_metrics(one_teacher)
    assert [record["step"] for record in records] == list(range(1, NUM_STEPS + 1))
    assert all(record["loss_kd"] > 0 for record in records)
    assert (one_teacher / "student" / "model.safetensors").is_file()


def test_the_plan_says_what_will_be_sent(
    tiny: TinyWorld, launch: Launch, one_teacher: Path
) -> None:
    ended = launch(*dskd("train", str(tiny.spec_file), "--dry-run"))
    assert ended.code == 0
    promised = re.search(
        r"teacher signal: top-16 \+ hidden states at ~\d+% of positions = (\d+) bytes per token",
        ended.output,
    )
    assert promised
    sent = read_metrics(one_teacher)[0][
        "link_bytes_per_token"
    ]  # blocks of 32 tokens: half of it is headers
    assert float(promised[1]) < sent < float(promised[1]) + 2000 / 32


def test_a_killed_teacher_costs_nothing(tiny: TinyWorld, start: Start, one_teacher: Path) -> None:
    run_dir = tiny.folder / "two_teachers"
    words = words_for(tiny, run_dir)
    doomed, other = (start(*teacher(words, replica)) for replica in (0, 1))
    students = start(*deepspeed(2, "dskd_ds/train.py", *words))
    wait_for(lambda: len(read_lines(run_dir / METRICS_FILE)) >= 2, students)
    doomed.send_signal(signal.SIGKILL)
    assert doomed.wait(30) == -signal.SIGKILL
    assert len(read_lines(run_dir / METRICS_FILE)) < NUM_STEPS, "it was killed too late to matter"
    assert students.wait(PATIENCE_SECONDS) == 0
    assert other.wait(30) == 0
    before, after = (read_metrics(folder) for folder in (one_teacher, run_dir))
    assert [[record[key] for key in EXACT] for record in before] == [
        [record[key] for key in EXACT] for record in after
    ]

"""Runs whose teachers are separate processes: late, killed, broken or hung."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest

from dskd_ds.link.keys import read_addresses
from dskd_ds.observe.metrics import METRICS_FILE, read_lines, read_metrics
from dskd_ds.runtime.arguments import override_argv
from tests.conftest import TinyWorld
from tests.processes.conftest import (
    PATIENCE_SECONDS,
    Launch,
    Start,
    deepspeed,
    ranks,
    wait_until,
    warm_dskd,
)
from tests.processes.warm import warm

pytestmark = [pytest.mark.process, pytest.mark.fault]
NUM_STEPS = 24
EXACT = ("loss", "loss_ce", "loss_kd", "loss_sense", "grad_norm", "sense_positions")


def arguments_of(tiny: TinyWorld, run_dir: Path) -> list[str]:
    """Return the spec and the overrides that students and teachers share, as arguments."""
    overrides = (
        f"run_dir={run_dir}",
        "topology.num_teachers=0",
        f"train.num_steps={NUM_STEPS}",
        "student.layers=first",
        "checkpoint.every_steps=0",
        "link.heartbeat_seconds=0.5",
        "link.dead_after_seconds=3.0",
    )
    return ["--spec", str(tiny.spec_file), *override_argv(overrides)]


def teacher(argv: list[str], replica: int) -> list[str]:
    """Return the command line of a separate teacher."""
    return warm([sys.executable, "-m", "dskd_ds.teacher", *argv, "--replica", str(replica)])


@pytest.fixture
def one_teacher(tiny: TinyWorld, start: Start, dictionary: Path) -> Path:
    """A finished run whose only teacher started after the students; trained once per session."""
    run_dir = tiny.folder / "one_teacher"
    if not run_dir.is_dir():
        assert dictionary.is_dir()
        argv = arguments_of(tiny, run_dir)
        students = start(*ranks(2, "dskd_ds/train.py", *argv))
        wait_until(lambda: len(read_addresses(run_dir)) == 2, students)
        late = start(*teacher(argv, 0))
        assert students.wait(PATIENCE_SECONDS) == 0
        assert late.wait(30) == 0  # after the students' goodbye
    return run_dir


def test_a_separate_teacher_may_start_late(one_teacher: Path) -> None:
    records = read_metrics(one_teacher)
    assert [record["step"] for record in records] == list(range(1, NUM_STEPS + 1))
    assert all(record["loss_kd"] > 0 for record in records)
    assert (one_teacher / "student" / "model.safetensors").is_file()


def test_the_dry_run_predicts_the_bytes_that_are_sent(
    tiny: TinyWorld, launch: Launch, one_teacher: Path
) -> None:
    ended = launch(*warm_dskd("train", str(tiny.spec_file), "--dry-run"))
    assert ended.code == 0
    predicted = re.search(
        r"teacher signal: top-16 \+ hidden states at ~\d+% of positions = (\d+) bytes per token",
        ended.output,
    )
    assert predicted
    sent = read_metrics(one_teacher)[0]["link_bytes_per_token"]
    # With blocks of 32 tokens the headers, which are not predicted, are half of it.
    assert float(predicted[1]) < sent < float(predicted[1]) + 2000 / 32


def test_a_killed_teacher_does_not_change_the_losses(
    tiny: TinyWorld, start: Start, one_teacher: Path
) -> None:
    run_dir = tiny.folder / "two_teachers"
    argv = arguments_of(tiny, run_dir)
    doomed, other = (start(*teacher(argv, replica)) for replica in (0, 1))
    students = start(*deepspeed(2, "dskd_ds/train.py", *argv))
    wait_until(lambda: len(read_lines(run_dir / METRICS_FILE)) >= 2, students)
    # Without a goodbye: the students notice it by missing heartbeats.
    doomed.send_signal(signal.SIGKILL)
    assert doomed.wait(30) == -signal.SIGKILL
    assert len(read_lines(run_dir / METRICS_FILE)) < NUM_STEPS, (
        "the teacher was killed after the last step"
    )
    assert students.wait(PATIENCE_SECONDS) == 0
    assert other.wait(30) == 0
    for expected, found in zip(read_metrics(one_teacher), read_metrics(run_dir), strict=True):
        assert {key: found[key] for key in EXACT} == {key: expected[key] for key in EXACT}


@pytest.mark.slow
def test_a_broken_teacher_costs_itself_only(
    tiny: TinyWorld, start: Start, one_teacher: Path
) -> None:
    """Its requests go to the other teacher, and the losses are the same to the last bit."""
    run_dir = tiny.folder / "broken_teacher"
    # The good teacher waits for the bad one below, which must not look like hanging.
    overrides = override_argv([f"link.deadline_seconds={PATIENCE_SECONDS}"])
    argv = [*arguments_of(tiny, run_dir), *overrides]
    gate = tiny.folder / "broken.gate"
    command = warm([sys.executable, "-m", "tests.processes.bad_teacher"])
    good = start(*command, "waits", str(gate), *argv)
    students = start(*ranks(2, "dskd_ds/train.py", *argv))
    # After the first step the good teacher is known; it goes on when the bad one has failed.
    wait_until(lambda: len(read_lines(run_dir / METRICS_FILE)) >= 1, students)
    bad = start(*command, "fails", str(gate), *argv, "--replica", "1")
    output, _ = students.communicate(timeout=PATIENCE_SECONDS)
    assert students.returncode == 0, output
    assert "refused 3 requests in a row, the last one because: RuntimeError: cuBLAS" in output
    assert good.wait(30) == 0
    bad.kill()
    for expected, found in zip(read_metrics(one_teacher), read_metrics(run_dir), strict=True):
        assert {key: found[key] for key in EXACT} == {key: expected[key] for key in EXACT}

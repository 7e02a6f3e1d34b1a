"""Health of real runs: a slow student is named, and `dskd status` says the truth in each state."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dskd_ds.commands.status import read_status
from dskd_ds.observe.charts import CHARTS
from dskd_ds.observe.metrics import METRICS_FILE, read_lines, read_metrics
from dskd_ds.observe.run_files import RUN_START_FILE, RunStart, read_record
from dskd_ds.runtime.arguments import override_argv
from tests.conftest import TinyWorld
from tests.processes.conftest import (
    PATIENCE_SECONDS,
    Environment,
    Launch,
    Start,
    dskd,
    ranks,
    wait_until,
)
from tests.processes.slow_worker import FACTOR, FIRST_SLOW_STEP

# Slow: the launches of this file take more time than `make test` has; CI runs them.
pytestmark = [pytest.mark.process, pytest.mark.slow]
NUM_STEPS = FIRST_SLOW_STEP + 50


def overrides_of(run_dir: Path, *more: str) -> list[str]:
    """Return the overrides of a run without senses, as arguments."""
    keys = (
        f"run_dir={run_dir}",
        "loss.sense_weight=0",
        "student.layers=first",
        # On a busy machine the students need long to start.
        f"link.teacher_wait_seconds={PATIENCE_SECONDS}",
        *more,
    )
    return override_argv(keys)


def test_a_slow_student_is_named_within_50_steps_with_its_factor(
    tiny: TinyWorld, launch: Launch, variables: Environment
) -> None:
    """Both students take equally long per step, because they wait for each other."""
    run_dir = tiny.folder / "slow_student"
    overrides = overrides_of(run_dir, f"train.num_steps={NUM_STEPS}", "checkpoint.every_steps=20")
    variables["FORWARDS_PER_STEP"] = "2"  # 4 blocks, one at a time on each of 2 students
    argv = ["--spec", str(tiny.spec_file), *overrides]
    ended = launch(*ranks(3, "tests/processes/slow_worker.py", *argv))
    assert ended.code == 0
    # The run ends 50 steps after the student became slow.
    (factor,) = re.findall(r"student 1 computes ([\d.]+) times as long per step", ended.output)
    assert FACTOR / 1.8 < float(factor) < FACTOR * 1.8
    last = read_metrics(run_dir)[-1]
    assert last["slowest_rank"] == 1
    assert FACTOR / 1.8 < last["slowest_factor"] < FACTOR * 1.8
    assert last["teachers"] == 1
    assert last["rss_bytes"] > 1 << 20
    assert last["save_seconds"] > 0
    assert last["attempt"] == 1
    assert 0 <= last["teacher_wait_share"] <= 1
    board = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    assert board.Scalars(CHARTS["slowest_rank"])[-1].value == 1
    status = read_status(run_dir)
    assert (status.state, status.step, status.exit_code) == ("finished", NUM_STEPS, 0)


def test_status_of_a_run_that_is_killed_and_started_again(
    tiny: TinyWorld, start: Start, launch: Launch
) -> None:
    run_dir = tiny.folder / "status"
    overrides = overrides_of(run_dir, "train.num_steps=400", "checkpoint.every_steps=5")
    command = dskd("train", str(tiny.spec_file), *overrides)
    training = start(*command)
    wait_until(lambda: len(read_lines(run_dir / METRICS_FILE)) >= 12, training)
    running = read_status(run_dir)
    assert running.state == "running"
    assert running.num_steps == 400
    assert running.step >= 12
    assert running.eta_seconds is not None
    assert running.eta_seconds > 0
    (node,) = running.nodes
    assert [teacher.phase for teacher in node.teachers] == ["serving"]
    assert running.checkpoint is not None

    # Student 0 is killed as by the kernel when memory runs out: nothing can be recorded by itself.
    os.kill(process_of_student_0(run_dir), signal.SIGKILL)
    assert training.wait(PATIENCE_SECONDS) != 0
    dead = read_status(run_dir)
    assert dead.state == "failed"  # `dskd train` outlived its ranks and recorded how they ended
    assert dead.died_of is not None
    assert "SIGKILL" in dead.died_of
    assert dead.command is not None
    assert dead.command.startswith(f"cd {Path.cwd()} && dskd train {tiny.spec_file}")

    # What the status says to call does go on with the run.
    shorter = [*overrides, "--set", f"train.num_steps={dead.step + 1}"]
    assert launch(*dskd("train", str(tiny.spec_file), *shorter)).code == 0
    finished = read_status(run_dir)
    assert (finished.state, finished.attempt) == ("finished", 2)
    assert finished.step == dead.step + 1
    steps = [record["step"] for record in read_metrics(run_dir)]
    assert steps == list(range(1, dead.step + 2))


def process_of_student_0(run_dir: Path) -> int:
    """Return the process of student 0."""
    record = read_record(run_dir / RUN_START_FILE, RunStart)
    assert record is not None
    return record.pid


@pytest.mark.fault
def test_status_says_what_a_run_without_teachers_died_of(tiny: TinyWorld, launch: Launch) -> None:
    run_dir = tiny.folder / "no_teacher"
    overrides = overrides_of(
        run_dir, "topology.num_teachers=0", "link.teacher_wait_seconds=2", "train.num_steps=3"
    )
    ended = launch(*ranks(2, "dskd_ds/train.py", "--spec", str(tiny.spec_file), *overrides))
    assert ended.code != 0
    status = read_status(run_dir)
    assert (status.state, status.exit_code) == ("failed", 4)
    assert "no teacher" in (status.died_of or "")
    assert "python -m dskd_ds.teacher" in status.what_to_do

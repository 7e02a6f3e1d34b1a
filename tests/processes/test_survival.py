"""Runs that go on after bad numbers and pauses, and that end in time when they hang."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from dskd_ds.observe.metrics import read_metrics
from dskd_ds.observe.run_files import RankProgress, progress_file, read_record, stacks_file
from tests.conftest import TinyWorld
from tests.processes.conftest import (
    PATIENCE_SECONDS,
    Launch,
    Start,
    deepspeed,
    dskd,
    ranks,
    wait_until,
)
from tests.processes.test_verdict import arguments_of, checkpoints

# Slow: the launches of this file take more time than `make test` has; CI runs them.
pytestmark = [pytest.mark.process, pytest.mark.fault, pytest.mark.slow]

LIMIT_SECONDS = 10
FAULT_WORKER = "tests/processes/fault_worker.py"


def column(run_dir: Path, key: str) -> list[float]:
    """Return one value of all steps."""
    return [record[key] for record in read_metrics(run_dir)]


def train_with_nan(
    tiny: TinyWorld, launch: Launch, run_dir: Path, first: int, num_steps: int, rollback_after: int
) -> str:
    """Train while student 1 has NaN in its gradients in some steps; return the output."""
    argv = arguments_of(
        tiny,
        run_dir,
        "checkpoint.every_steps=1",
        f"train.rollback_after_skips={rollback_after}",
    )
    fault = ["--fault", "nan", "--step", str(first), "--num-steps", str(num_steps)]
    ended = launch(*ranks(3, FAULT_WORKER, *fault, *argv))
    assert ended.code == 0
    assert ended.output.count("was skipped by all ranks: the norm of its gradients") == num_steps
    return ended.output


def test_nan_in_one_ranks_gradient_is_skipped_and_a_row_of_them_rolls_back(
    tiny: TinyWorld, launch: Launch
) -> None:
    """Skipping 4 and 5 and going back to step 2 gives the student of skipping 3, 4 and 5."""
    back, expected = tiny.folder / "rolled-back", tiny.folder / "skipped"
    output = train_with_nan(tiny, launch, back, first=4, num_steps=2, rollback_after=2)
    train_with_nan(tiny, launch, expected, first=3, num_steps=3, rollback_after=0)
    assert "go back to the weights of step 2, and on to the data of step 6" in output
    assert column(back, "skipped_for_gradient") == [0, 0, 0, 1, 2, 2]
    assert column(back, "rollbacks") == [0, 0, 0, 0, 0, 1]
    assert column(expected, "skipped") == [0, 0, 1, 2, 3, 3]
    # No checkpoint is saved while steps are skipped, and that of the weights given up is renamed.
    assert checkpoints(back) == [f"step-0000000{step}" for step in (1, 2, 6)]
    assert (back / "checkpoints" / "abandoned-step-00000003").is_dir()
    assert column(back, "loss")[5] == column(expected, "loss")[5]
    mine, theirs = (
        load_file(folder / "student" / "model.safetensors") for folder in (back, expected)
    )
    assert mine.keys() == theirs.keys()
    assert all((mine[name] == theirs[name]).all() for name in mine)


def test_a_loss_spike_of_one_rank_is_skipped_by_all_in_bf16_too(
    tiny: TinyWorld, launch: Launch
) -> None:
    run_dir = tiny.folder / "spike"
    argv = arguments_of(
        tiny,
        run_dir,
        "student.dtype=bfloat16",
        "student.precision=bf16",
        "train.skip_loss_spikes=6",
        "train.spike_window_steps=8",
        "train.num_steps=12",
    )
    ended = launch(*ranks(3, FAULT_WORKER, "--fault", "spike", "--step", "10", *argv))
    assert ended.code == 0
    assert ended.output.count("step 10 was skipped by all ranks: its loss") == 1
    assert "is a spike" in ended.output
    assert "(the largest part is that of rank 1:" in ended.output
    assert column(run_dir, "skipped_for_spike") == [0] * 9 + [1] * 3
    assert column(run_dir, "skipped") == column(run_dir, "skipped_for_spike")


def test_an_error_of_one_rank_while_the_student_is_to_write_stops_all_after_a_save(
    tiny: TinyWorld, launch: Launch
) -> None:
    """Step 4 is on-policy, and planned while step 2 is trained: the gather needs all ranks."""
    run_dir = tiny.folder / "stale-prompts"
    on_policy = ("on_policy_fraction=0.5", "on_policy_prompt_tokens=8", "on_policy_new_tokens=8")
    argv = arguments_of(tiny, run_dir, *(f"train.{setting}" for setting in on_policy))
    fault = ["--fault", "plan", "--step", "4"]
    ended = launch(*ranks(3, FAULT_WORKER, *fault, *argv))
    assert ended.code == 1
    assert ended.output.count("OSError: [Errno 116] Stale file handle") == 1
    assert ended.output.count("Traceback") == 1
    assert checkpoints(run_dir) == ["step-00000001"]


def test_a_rank_that_hangs_in_forward_ends_the_run_with_its_stack(
    tiny: TinyWorld, launch: Launch
) -> None:
    run_dir = tiny.folder / "hanging"
    argv = arguments_of(tiny, run_dir, "train.hang_seconds=15")
    fault = ["--fault", "sleep", "--step", "3"]
    ended = launch(*deepspeed(3, FAULT_WORKER, *fault, *argv))
    assert ended.code not in (0, 3)
    assert "it has been in the phase 'forward' of step 3" in ended.output
    progress = read_record(progress_file(run_dir, 1), RankProgress)
    assert progress is not None
    assert (progress.phase, progress.step) == ("forward", 2)
    assert "sleep_for_ever" in progress.where
    # The two watchdogs notice it in the same second, and the launcher ends the later one.
    stacks = [stacks_file(run_dir, rank) for rank in (0, 1)]
    assert any(file.is_file() for file in stacks)
    assert "sleep_for_ever" in ended.output


def test_a_pause_of_everything_is_no_hang_and_a_signal_saves_in_time(
    tiny: TinyWorld, start: Start
) -> None:
    """All processes are stopped for twice every limit; then SIGUSR1 comes twice."""
    run_dir = tiny.folder / "paused"
    argv = arguments_of(
        tiny,
        run_dir,
        "train.num_steps=100000",
        f"train.hang_seconds={LIMIT_SECONDS}",
        f"train.stop_grace_seconds={LIMIT_SECONDS}",
        f"link.teacher_wait_seconds={LIMIT_SECONDS}",
        f"link.deadline_seconds={LIMIT_SECONDS}",
        f"link.dead_after_seconds={LIMIT_SECONDS}",
        "monitor.tensorboard=false",
    )
    train = start(*dskd("train", *argv[1:]))
    wait_until(lambda: len(read_metrics(run_dir)) >= 2, train)
    launch = psutil.Process(train.pid)
    paused = [*launch.children(recursive=True), launch]
    for process in paused:
        process.suspend()
    num_done = len(read_metrics(run_dir))
    time.sleep(2.1 * LIMIT_SECONDS)  # the length of the pause is what is tested
    assert len(read_metrics(run_dir)) == num_done
    for process in paused:
        process.resume()
    wait_until(lambda: len(read_metrics(run_dir)) >= num_done + 5, train)
    for _ in range(2):
        train.send_signal(signal.SIGUSR1)
    assert train.wait(timeout=PATIENCE_SECONDS) == 3
    (last,) = checkpoints(run_dir)
    assert last == f"step-{len(read_metrics(run_dir)):08d}"

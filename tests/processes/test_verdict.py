"""Runs of two students of which one meets a fault: both save and stop, or both go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_ds.files.manifest import MANIFEST_FILE
from dskd_ds.observe.metrics import read_metrics
from dskd_ds.runtime.arguments import override_argv
from tests.conftest import TinyWorld
from tests.processes.conftest import Ended, Launch, deepspeed, ranks

# Slow: the launches of this file take more time than `make test` has; CI runs them.
pytestmark = [pytest.mark.process, pytest.mark.fault, pytest.mark.slow]


def arguments_of(tiny: TinyWorld, run_dir: Path, *changes: str) -> list[str]:
    """Return the arguments of a run without senses, so that it needs no dictionary."""
    overrides = (
        f"run_dir={run_dir}",
        "loss.sense_weight=0",
        "student.layers=first",
        "checkpoint.every_steps=0",
        *changes,
    )
    return ["--spec", str(tiny.spec_file), *override_argv(overrides)]


def faulty(fault: str, step: int) -> list[str]:
    """Return the script and the arguments that make student 1 meet a fault."""
    return ["tests/processes/fault_worker.py", "--fault", fault, "--step", str(step)]


def checkpoints(run_dir: Path) -> list[str]:
    """Return the names of all folders of checkpoints; each must be complete."""
    folders = sorted((run_dir / "checkpoints").glob("step-*"))
    assert all((folder / MANIFEST_FILE).is_file() for folder in folders)
    return [folder.name for folder in folders]


def losses(run_dir: Path) -> list[float]:
    """Return the exact losses of a run's steps."""
    return [record["loss"] for record in read_metrics(run_dir)]


@pytest.fixture
def undisturbed(tiny: TinyWorld, launch: Launch) -> Path:
    """A finished run that saves after every step, by the clock; trained once per session."""
    run_dir = tiny.folder / "undisturbed"
    if not run_dir.is_dir():
        argv = arguments_of(tiny, run_dir, "checkpoint.every_minutes=1e-9")
        assert launch(*ranks(3, "dskd_ds/train.py", *argv)).code == 0
    return run_dir


def test_the_clock_saves(undisturbed: Path) -> None:
    assert checkpoints(undisturbed) == [f"step-0000000{step}" for step in (2, 3, 4, 5, 6)]  # keep


def interrupt(tiny: TinyWorld, launch: Launch, run_dir: Path) -> Ended:
    """Train until student 1 gets a signal in step 3."""
    return launch(*deepspeed(3, *faulty("signal", 3), *arguments_of(tiny, run_dir)))


def test_a_signal_to_one_rank_saves_and_ends_both(tiny: TinyWorld, launch: Launch) -> None:
    run_dir = tiny.folder / "interrupted"
    ended = interrupt(tiny, launch, run_dir)
    assert ended.code == 3
    assert ended.output.count("saved, as a signal asked this run to stop") == 1
    assert "Traceback" not in ended.output
    assert checkpoints(run_dir) == ["step-00000002"]


def test_the_same_command_goes_on_even_if_one_save_fails(
    tiny: TinyWorld, launch: Launch, undisturbed: Path
) -> None:
    run_dir = tiny.folder / "interrupted"
    if not run_dir.is_dir():  # the test before was not selected
        interrupt(tiny, launch, run_dir)
    assert checkpoints(run_dir) == ["step-00000002"]
    argv = arguments_of(tiny, run_dir, "checkpoint.every_steps=1")
    ended = launch(*ranks(3, *faulty("disk", 4), *argv))
    assert ended.code == 0
    assert ended.output.count("this checkpoint cannot be written: OSError: [Errno 28]") == 1
    assert checkpoints(run_dir) == [f"step-0000000{step}" for step in (2, 3, 5, 6)]
    assert losses(run_dir) == losses(undisturbed)
    assert len(losses(run_dir)) == 6


def test_an_error_of_one_rank_stops_both_after_a_save(tiny: TinyWorld, launch: Launch) -> None:
    run_dir = tiny.folder / "stale"
    ended = launch(*ranks(3, *faulty("input", 3), *arguments_of(tiny, run_dir)))
    assert ended.code == 1
    assert ended.output.count("OSError: [Errno 116] Stale file handle") == 1
    assert ended.output.count("Traceback") == 1
    assert checkpoints(run_dir) == ["step-00000002"]

"""Runs of two students of which one meets a fault: both save and stop, or both go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_ds.files.manifest import MANIFEST_FILE
from dskd_ds.observe.metrics import read_metrics
from dskd_ds.runtime.arguments import override_argv
from tests.conftest import TinyWorld
from tests.processes.conftest import Launch, deepspeed, mpirun

pytestmark = [pytest.mark.process, pytest.mark.fault]


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


def test_a_signal_saves_and_the_same_command_goes_on(tiny: TinyWorld, launch: Launch) -> None:
    """The second launch also meets a full disk at one save, which does not end it."""
    undisturbed, run_dir = tiny.folder / "undisturbed", tiny.folder / "interrupted"
    argv = arguments_of(tiny, undisturbed)
    assert launch(*mpirun(3, "dskd_ds/train.py", *argv)).code == 0

    argv = arguments_of(tiny, run_dir)
    ended = launch(*deepspeed(3, *faulty("signal", 3), *argv))
    assert ended.code == 3
    assert ended.output.count("saved, as a signal asked this run to stop") == 1
    assert "Traceback" not in ended.output
    assert checkpoints(run_dir) == ["step-00000002"]

    argv = arguments_of(tiny, run_dir, "checkpoint.every_steps=1")
    ended = launch(*mpirun(3, *faulty("disk", 4), *argv))
    assert ended.code == 0
    assert ended.output.count("this checkpoint cannot be written: OSError: [Errno 28]") == 1
    assert checkpoints(run_dir) == [f"step-0000000{step}" for step in (2, 3, 5, 6)]
    assert losses(run_dir) == losses(undisturbed)
    assert len(losses(run_dir)) == 6


def test_an_error_of_one_rank_stops_both_after_a_save(tiny: TinyWorld, launch: Launch) -> None:
    """rank 1 shows its traceback; every_minutes has made a checkpoint after each step before."""
    run_dir = tiny.folder / "stale"
    argv = arguments_of(tiny, run_dir, "checkpoint.every_minutes=1e-9")
    ended = launch(*mpirun(3, *faulty("input", 3), *argv))
    assert ended.code == 1
    assert ended.output.count("OSError: [Errno 116] Stale file handle") == 1
    assert ended.output.count("Traceback") == 1
    assert checkpoints(run_dir) == ["step-00000001", "step-00000002"]

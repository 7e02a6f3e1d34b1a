"""Student 0 records its launch, its number among the run's launches, and what starts it again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dskd_ds.observe.attempts import ATTEMPT_VARIABLE
from dskd_ds.observe.run_files import COMMAND_VARIABLE, RUN_START_FILE, RunStart, read_record
from dskd_ds.runtime.launchers import Launch
from dskd_ds.runtime.topology import Role
from dskd_ds.spec import load_spec
from dskd_ds.student.launch_record import LaunchRecord, start_command

ROLE = Role(
    kind="student",
    rank=0,
    size=2,
    launch=Launch(
        launcher="mpirun",
        rank=0,
        world_size=3,
        local_rank=0,
        local_world_size=3,
        master_addr="127.0.0.1",
        master_port=29500,
    ),
)


@pytest.fixture(autouse=True)
def outside_of_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove what a job would have set."""
    for name in (ATTEMPT_VARIABLE, COMMAND_VARIABLE, "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)


def record_launch(run_dir: Path) -> RunStart:
    """Record a launch, and return what `dskd status` reads of it."""
    spec = load_spec("tests/base_run.toml", [f'run_dir="{run_dir}"'])
    LaunchRecord(spec, ROLE).note_steps(num_done=4, num_steps=9)
    found = read_record(run_dir / RUN_START_FILE, RunStart)
    assert found is not None
    return found


def test_launches_are_counted(tmp_path: Path) -> None:
    first, second = record_launch(tmp_path), record_launch(tmp_path)
    assert (first.attempt, second.attempt) == (1, 2)
    assert (first.pid, first.launcher, first.job_id) == (os.getpid(), "mpirun", "")
    assert (first.first_step, first.num_steps) == (4, 9)
    assert second.started >= first.started


def test_a_job_gives_its_number_and_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ATTEMPT_VARIABLE, "5")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv(COMMAND_VARIABLE, "dskd submit my.toml")
    found = record_launch(tmp_path)
    assert (found.attempt, found.job_id, found.command) == (5, "77", "dskd submit my.toml")


@pytest.mark.parametrize(
    ("launcher", "expected"),
    [
        ("deepspeed", "deepspeed [the same options] train.py --spec 'my run.toml'"),
        ("srun", "srun [the same options] python train.py --spec 'my run.toml'"),
        ("another", "another train.py --spec 'my run.toml'"),
    ],
)
def test_the_command_of_a_launch_by_hand(launcher: str, expected: str) -> None:
    argv = ["train.py", "--local_rank=0", "--spec", "my run.toml"]
    assert start_command(argv, launcher, {}) == expected

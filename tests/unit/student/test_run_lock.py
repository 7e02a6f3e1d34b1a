"""The run lock: one launch per run directory; dead owners are replaced, living ones are not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dskd_ds.errors import DskdError, InputError, OtherRankError
from dskd_ds.files.atomic import write_json
from dskd_ds.student import run_lock
from dskd_ds.student.collectives import run_on_rank_0
from dskd_ds.student.run_lock import LEASE_FILE, Owner, RunLock, refuse_a_held_run
from tests.unit.student.ranks import on_all_ranks, use_ranks

HOLD = """
import signal, sys
from pathlib import Path
from dskd_ds.student.run_lock import RunLock
RunLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
signal.pause()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the lock on tmp_path."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def put_owner_elsewhere(run_dir: Path) -> Owner:
    """Write the lease of a launch on another machine."""
    owner = replace(Owner.this_process({"SLURM_JOB_ID": "77"}), host="node7", machine="boot of it")
    write_json(run_dir / LEASE_FILE, vars(owner))
    return owner


def test_a_second_launch_is_refused_and_told_who_holds_the_lock(
    tmp_path: Path, other: subprocess.Popen[str]
) -> None:
    with pytest.raises(InputError, match=rf"using this run directory: process {other.pid} on .*20"):
        RunLock(tmp_path).acquire()
    with pytest.raises(InputError, match=f"process {other.pid}"):
        refuse_a_held_run(tmp_path)
    # A process that is stopped would write again when it is continued.
    os.kill(other.pid, signal.SIGSTOP)
    os.utime(tmp_path / LEASE_FILE, (0, 0))
    with pytest.raises(InputError, match=f"process {other.pid}"):
        RunLock(tmp_path).acquire()


def test_a_requeued_job_waits_for_its_earlier_start(
    tmp_path: Path, other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM requeues a job whose node it cannot reach; the processes there may still run."""
    lease = json.loads((tmp_path / LEASE_FILE).read_text())
    (tmp_path / LEASE_FILE).write_text(json.dumps(lease | {"job_id": "77"}))
    again = {"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": "1"}

    def end_it(_seconds: float) -> None:
        other.kill()
        other.wait()

    monkeypatch.setattr(run_lock.time, "sleep", end_it)
    lock = RunLock(tmp_path, Owner.this_process(again))
    lock.acquire()
    lock.release()


@pytest.mark.parametrize(
    "env",
    [
        {"SLURM_JOB_ID": "77"},  # a second step of the same start
        {"SLURM_JOB_ID": "78", "SLURM_RESTART_COUNT": "1"},
    ],
)
def test_another_launch_of_a_job_does_not_wait(
    tmp_path: Path, other: subprocess.Popen[str], env: dict[str, str]
) -> None:
    lease = json.loads((tmp_path / LEASE_FILE).read_text())
    (tmp_path / LEASE_FILE).write_text(json.dumps(lease | {"job_id": "77"}))
    with pytest.raises(InputError, match=f"process {other.pid}"):
        RunLock(tmp_path, Owner.this_process(env)).acquire()


def test_all_ranks_end_with_the_same_code(
    tmp_path: Path, other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert other.poll() is None
    comm = use_ranks(monkeypatch, 3)
    lock = RunLock(tmp_path)
    first, *others = on_all_ranks(comm, lambda _: run_on_rank_0(lock.acquire))
    assert isinstance(first, InputError)
    for error in others:
        assert isinstance(error, OtherRankError)
        assert (error.exit_code, str(error)) == (first.exit_code, "")


def test_the_lock_of_a_killed_process_is_taken_over_at_once(
    tmp_path: Path, other: subprocess.Popen[str]
) -> None:
    other.kill()
    # Not reaped by this process yet: a zombie is dead too.
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    refuse_a_held_run(tmp_path)
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.check()
    lock.release()
    assert not (tmp_path / LEASE_FILE).exists()


def test_a_process_id_that_is_used_again_is_another_process(tmp_path: Path) -> None:
    write_json(tmp_path / LEASE_FILE, vars(replace(Owner.this_process(), process_start="1")))
    refuse_a_held_run(tmp_path)
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()


def test_a_living_owner_on_another_machine_is_noticed_by_its_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_owner_elsewhere(tmp_path)
    waited: list[float] = []

    def beat(seconds: float) -> None:
        waited.append(seconds)
        os.utime(tmp_path / LEASE_FILE, ns=(len(waited), len(waited)))

    monkeypatch.setattr(run_lock.time, "sleep", beat)
    monkeypatch.setattr(run_lock, "STALE_SECONDS", float("inf"))
    with pytest.raises(InputError, match="on node7, SLURM job 77, since 20"):
        RunLock(tmp_path).acquire()
    assert len(waited) == 1


def test_a_silent_owner_on_another_machine_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_owner_elsewhere(tmp_path)
    refuse_a_held_run(tmp_path)  # left to rank 0, which can wait
    waited: list[float] = []

    def become_stale(seconds: float) -> None:
        waited.append(seconds)
        monkeypatch.setattr(run_lock, "STALE_SECONDS", -1.0)

    monkeypatch.setattr(run_lock.time, "sleep", become_stale)
    lock = RunLock(tmp_path)
    lock.acquire()
    assert len(waited) == 1
    lock.check()
    lock.release()


def test_a_lease_that_was_silent_for_long_is_replaced_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_owner_elsewhere(tmp_path)
    os.utime(tmp_path / LEASE_FILE, (0, 0))
    monkeypatch.setattr(run_lock.time, "sleep", None)
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()


def test_an_owner_that_was_replaced_writes_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example a frozen virtual machine that goes on after its lease was taken over."""
    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.01)
    paused = RunLock(tmp_path)
    paused.acquire()
    new_owner = put_owner_elsewhere(tmp_path)
    paused._thread.join(timeout=30)  # its heartbeat notices, and touches the lease no more
    assert not paused._thread.is_alive()
    with pytest.raises(DskdError, match=r"has taken over this run directory \(process .* on node7"):
        paused.check()
    paused.release()
    assert run_lock._read_owner(tmp_path / LEASE_FILE) == new_owner


def test_the_heartbeat_survives_errors_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.01)
    beats = 0
    touch = os.utime
    touched = run_lock.threading.Event()

    def fail_twice(path: Path) -> None:
        nonlocal beats
        beats += 1
        if beats <= 2:
            raise OSError(5, "Input/output error")
        touch(path)
        touched.set()

    monkeypatch.setattr(run_lock.os, "utime", fail_twice)
    lock = RunLock(tmp_path)
    lock.acquire()
    assert touched.wait(timeout=30)
    lock.release()

"""The watchdog of real processes: a stuck one ends and says where it and the others are."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dskd_ds.observe.run_files import (
    End,
    RankProgress,
    RecordFile,
    end_file,
    progress_file,
    read_record,
    stacks_file,
)
from dskd_ds.spec import load_spec
from dskd_ds.student.phases import ENDED, Phases
from dskd_ds.student.watchdog import MAX_LISTED_RANKS, Watchdog, others_message

pytestmark = [pytest.mark.process, pytest.mark.fault]

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def hang(tmp_path: Path) -> Iterator[Start]:
    """`hang(what, setting, ...)` starts a worker and returns it when it has begun to hang."""
    started: list[subprocess.Popen[str]] = []

    def run(what: str, *settings: str) -> subprocess.Popen[str]:
        worker = ["-m", "tests.unit.student.stuck_worker", str(tmp_path), what, *settings]
        process = subprocess.Popen(
            [sys.executable, *worker], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def progress(rank: int, count: int) -> RankProgress:
    return RankProgress(
        rank=rank,
        host=f"node{rank}",
        pid=1,
        phase="backward",
        step=4,
        since=time.time(),
        num_phases=count,
        where="all_reduce.py:7 in wait",
    )


def test_a_stuck_rank_ends_and_says_where_it_and_the_others_are(
    hang: Start, tmp_path: Path
) -> None:
    RecordFile(progress_file(tmp_path, 0)).write(progress(0, 30))
    process = hang("sleep", "train.hang_seconds=1")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "student rank 1 is stuck: it has been in the phase 'forward' of step 5" in errors
    assert "[train] hang_seconds allows 1 s" in errors
    assert "in sleep_for_ever" in errors  # of the message
    assert 'stuck_worker.py", line' in errors  # of the stacks
    assert "rank 0 on node0: 'backward' of step 5" in errors
    assert "all_reduce.py:7 in wait" in errors
    stacks = stacks_file(tmp_path, 1).read_text()
    assert "student rank 1 is stuck" in stacks
    assert "sleep_for_ever" in stacks
    end = read_record(end_file(tmp_path, "student", 1), End)
    assert end is not None
    assert end.exit_code == 1
    assert "is stuck" in end.message


def test_a_rank_that_no_signal_reaches_ends_after_the_grace_time(hang: Start) -> None:
    process = hang("lock", "train.stop_grace_seconds=1")
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "after a signal asked it to stop, and [train] stop_grace_seconds allows 1 s" in errors


def test_the_progress_file_says_what_the_rank_does(hang: Start, tmp_path: Path) -> None:
    process = hang("sleep")
    path = progress_file(tmp_path, 1)
    deadline = time.monotonic() + 60
    found = read_record(path, RankProgress)
    while found is None or found.phase != "forward":
        assert time.monotonic() < deadline
        time.sleep(0.05)
        found = read_record(path, RankProgress)
    assert (found.rank, found.pid, found.step) == (1, process.pid, 4)
    assert "sleep_for_ever" in found.where
    assert process.poll() is None


def test_after_the_end_the_file_says_so_and_no_thread_is_left(tmp_path: Path) -> None:
    spec = load_spec("tests/base_run.toml", [f"run_dir={tmp_path}"])
    num_files = len(list(Path("/proc/self/fd").iterdir()))
    watchdog = Watchdog(spec, rank=0, phases=Phases())
    watchdog.start()
    watchdog.stop()
    found = read_record(progress_file(tmp_path, 0), RankProgress)
    assert found is not None
    assert found.phase == ENDED
    assert not any(thread.is_alive() for thread in watchdog._threads)
    assert len(list(Path("/proc/self/fd").iterdir())) == num_files


def test_only_the_ranks_that_are_furthest_behind_are_listed(tmp_path: Path) -> None:
    for rank in range(12):
        RecordFile(progress_file(tmp_path, rank)).write(progress(rank, 100 - rank))
    lines = others_message(tmp_path, rank=3).splitlines()
    listed = [line.split()[1] for line in lines[1:-1]]
    assert listed == ["11", "10", "9", "8", "7", "6", "5", "4"]
    assert len(listed) == MAX_LISTED_RANKS
    assert "and 3 more ranks" in lines[-1]

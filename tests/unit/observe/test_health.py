"""The teachers' files, the attempt and the job become metrics."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dskd_ds.observe.health import GONE_SECONDS, READ_SECONDS, HealthMetrics
from dskd_ds.observe.run_files import RUN_START_FILE, RecordFile
from tests.unit.observe.made_runs import START, teacher

NOW = 1_000_000.0


def write_teacher(run_dir: Path, replica: int, written: float = NOW, **more: object) -> None:
    """Write the file of a teacher."""
    path = run_dir / "progress" / f"teacher-{replica:05d}-node2-{replica}.json"
    RecordFile(path).write(teacher(replica, **more).record)
    os.utime(path, (written, written))


def test_teachers_that_serve_are_counted(tmp_path: Path) -> None:
    write_teacher(tmp_path, 0, queue_length=2, idle_share=0.1, busy_share=0.9, num_refused=1)
    write_teacher(tmp_path, 1, queue_length=5, idle_share=0.3, busy_share=0.7)
    write_teacher(tmp_path, 2, written=NOW - GONE_SECONDS - 1, queue_length=9)
    write_teacher(tmp_path, 3, phase="ended", queue_length=9)
    metrics = HealthMetrics(tmp_path, clock=lambda: NOW).metrics()
    assert metrics == {
        "teachers": 2,
        "teacher_queue": 5,
        "teacher_busy_share": pytest.approx(0.8),
        "teacher_idle_share": pytest.approx(0.2),
        "teacher_refusals": 1,
        "attempt": 1,
        "job_id": 0,
    }


def test_the_files_are_read_now_and_then_only(tmp_path: Path) -> None:
    times = iter([NOW, NOW, NOW + READ_SECONDS / 2, NOW + READ_SECONDS])
    health = HealthMetrics(tmp_path, clock=lambda: next(times))
    assert health.metrics()["teachers"] == 0
    write_teacher(tmp_path, 0)
    assert health.metrics()["teachers"] == 0
    assert health.metrics()["teachers"] == 1


@pytest.mark.parametrize(
    ("job_id", "number", "text"),
    [
        ("", 0, "attempt 2, student 0 on node1, from step 10"),
        ("77", 77, "attempt 2, SLURM job 77, student 0 on node1, from step 10"),
        ("77_1", 0, "attempt 2, SLURM job 77_1, student 0 on node1, from step 10"),
    ],
)
def test_attempt_and_job(tmp_path: Path, job_id: str, number: int, text: str) -> None:
    start = START.model_copy(update={"job_id": job_id})
    RecordFile(tmp_path / RUN_START_FILE).write(start)
    health = HealthMetrics(tmp_path)
    metrics = health.metrics()
    assert (metrics["attempt"], metrics["job_id"]) == (2, number)
    assert health.describe_attempt(first_step=10) == text

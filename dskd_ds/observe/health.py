"""Adds to a step's record what student 0 knows besides the step: teachers, attempt, job."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

from dskd_ds.observe.run_files import (
    PROGRESS_FOLDER,
    RUN_START_FILE,
    RunStart,
    TeacherHealth,
    read_record,
    read_records,
)

READ_SECONDS = 5.0
"""Time between two looks at the teachers' files, which may be on a slow shared disk."""
GONE_SECONDS = 60.0
"""A teacher that has not written its file for so long is not counted."""


class HealthMetrics:
    """The metrics of the run's teachers and of this launch, for metrics.jsonl."""

    def __init__(self, run_dir: Path, clock: Callable[[], float] = time.time) -> None:
        """clock: gives Unix seconds, as the files' modification times are."""
        self._run_dir, self._clock = run_dir, clock
        self._start = read_record(run_dir / RUN_START_FILE, RunStart)
        self._next_read = clock()
        self._teachers: dict[str, float] = {}

    @property
    def attempt(self) -> int:
        """The number of this launch among those of the run; 1 if nothing recorded it."""
        return self._start.attempt if self._start else 1

    def metrics(self) -> dict[str, float]:
        """Return the teachers as they were at most `READ_SECONDS` ago, and attempt and job."""
        now = self._clock()
        if now >= self._next_read:
            self._next_read = now + READ_SECONDS
            self._teachers = self._read_teachers(now)
        job_id = self._start.job_id if self._start else ""
        job_number = float(job_id) if job_id.isdecimal() else 0.0
        return {**self._teachers, "attempt": float(self.attempt), "job_id": job_number}

    def describe_attempt(self, first_step: int) -> str:
        """Return one line about this launch. first_step: number of steps done before it."""
        job = f", SLURM job {self._start.job_id}" if self._start and self._start.job_id else ""
        host = f", student 0 on {self._start.host}" if self._start else ""
        return f"attempt {self.attempt}{job}{host}, from step {first_step}"

    def _read_teachers(self, now: float) -> dict[str, float]:
        serving = []
        pattern = f"{PROGRESS_FOLDER}/teacher-*.json"
        for path, record in read_records(self._run_dir, pattern, TeacherHealth).items():
            if record.phase == "serving" and _is_fresh(path, now):
                serving.append(record)
        busy = [record.busy_share for record in serving] or [0.0]
        idle = [record.idle_share for record in serving] or [0.0]
        return {
            "teachers": float(len(serving)),
            "teacher_queue": float(max((record.queue_length for record in serving), default=0)),
            "teacher_busy_share": statistics.mean(busy),
            "teacher_idle_share": statistics.mean(idle),
            "teacher_refusals": float(sum(record.num_refused for record in serving)),
        }


def _is_fresh(path: Path, now: float) -> bool:
    try:
        return now - path.stat().st_mtime < GONE_SECONDS
    except OSError:
        return False  # removed in this moment

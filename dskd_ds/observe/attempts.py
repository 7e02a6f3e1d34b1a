"""The attempts of a run on a cluster: which jobs trained it, and how each of them ended.

An attempt is one start of a job script; a job that is requeued makes another one. Attempts of a run
directory are numbered from 1:

attempts/3.json              the record of attempt 3 (`Attempt`)
attempts/3/                  its logs: one file per job step and task
attempts/slurm-JOB_ID.out    what the job script itself printed, in all attempts of that job

The job script writes the record when it starts and when it ends, and passes the number to all its
processes as DSKD_ATTEMPT. A record whose `ended` is None belongs to an attempt that is running, or
that ended without being able to say so: its first node failed, or the script was killed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from dskd_ds.files.atomic import write_text
from dskd_ds.observe.saved import newest_repair_step, newest_step

ATTEMPTS_FOLDER = "attempts"
ATTEMPT_VARIABLE = "DSKD_ATTEMPT"
"""Environment variable with the number of the attempt, set by the job scripts."""

Reason = Literal[
    "done",
    "time_limit",
    "preempted",
    "cancelled",
    "node_lost",
    "no_teacher",
    "wrong_input",
    "failed",
    "unknown",
]
"""Why an attempt ended.

`time_limit`: the signal before the limit came, and the run was saved. `preempted`: SLURM or a user
asked the job steps to stop. `unknown`: the script could not record its end.
"""


class Attempt(BaseModel):
    """The record of one attempt. Unknown keys, of a later version, are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    number: int
    job_id: str
    """SLURM's job number."""
    job_name: str = ""
    partition: str = ""
    restart_count: int = 0
    """How often SLURM had requeued this job before."""
    nodes: list[str]
    """Nodes of the allocation, those of the students first."""
    started: float
    """When the job script started, in Unix seconds."""
    first_step: int
    """Step of the newest checkpoint at the start; 0 if there was none."""
    first_repair_step: int | None = None
    """Step of the repair's newest checkpoint at the start; 0 if there was none. None: the repair
    was done, or the record is of a version that did not write this."""
    ended: float | None = None
    """When the job script ended, in Unix seconds; None if it did not record its end."""
    last_step: int | None = None
    """Step of the newest checkpoint at the end."""
    last_repair_step: int | None = 0
    """The same at the end. None: the repair was done."""
    exit_code: int | None = None
    """Exit code of the students; 128 plus the signal's number if a signal ended one of them."""
    reason: Reason | None = None
    """Why the attempt ended; None while `ended` is None."""
    is_requeued: bool = False
    """Whether the job script asked SLURM to start the job again, or leaves that to SLURM."""
    message: str = ""
    """One sentence for users: what happened and what comes next."""

    @property
    def made_progress(self) -> bool:
        """Whether the attempt left a newer checkpoint than it found, or ended the repair."""
        if self.last_step is not None and self.last_step > self.first_step:
            return True
        if self.first_repair_step is None:
            return False
        return self.last_repair_step is None or self.last_repair_step > self.first_repair_step


def attempts_dir(run_dir: Path) -> Path:
    """Return the folder of all records and logs."""
    return run_dir / ATTEMPTS_FOLDER


def record_path(run_dir: Path, number: int) -> Path:
    """Return the path of one attempt's record."""
    return attempts_dir(run_dir) / f"{number}.json"


def log_dir(run_dir: Path, number: int) -> Path:
    """Return the folder of one attempt's logs."""
    return attempts_dir(run_dir) / str(number)


def read_attempts(run_dir: Path) -> list[Attempt]:
    """Return the records of all attempts, sorted by number. Invalid files are left out."""
    found: list[Attempt] = []
    for path in attempts_dir(run_dir).glob("[0-9]*.json"):
        try:
            found.append(Attempt.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError):
            continue
    return sorted(found, key=_number)


def _number(attempt: Attempt) -> int:
    return attempt.number


def begin_attempt(run_dir: Path, *, env: Mapping[str, str], nodes: list[str]) -> Attempt:
    """Write the record of a new attempt and make its folder for logs.

    env: the environment of the job script. An earlier attempt of the same job without an end gets
    one with the reason `unknown`: SLURM started the job again, so that attempt is over.
    """
    attempts_dir(run_dir).mkdir(parents=True, exist_ok=True)
    job_id = env.get("SLURM_JOB_ID", "")
    earlier = read_attempts(run_dir)
    for attempt in earlier:
        if attempt.ended is None and attempt.job_id == job_id:
            write_attempt(run_dir, without_end(run_dir, attempt, is_requeued=True))
    number = max((attempt.number for attempt in earlier), default=0) + 1
    # Two jobs on one run directory must not take the same number. The students' run lock refuses
    # the second one later; its record must not hide the first one's.
    while not _take_number(run_dir, number):
        number += 1
    attempt = Attempt(
        number=number,
        job_id=job_id,
        job_name=env.get("SLURM_JOB_NAME", ""),
        partition=env.get("SLURM_JOB_PARTITION", ""),
        restart_count=int(env.get("SLURM_RESTART_COUNT", "0") or 0),
        nodes=nodes,
        started=time.time(),
        first_step=newest_step(run_dir),
        first_repair_step=newest_repair_step(run_dir),
    )
    write_attempt(run_dir, attempt)
    return attempt


def _take_number(run_dir: Path, number: int) -> bool:
    """Make the folder for an attempt's logs; return False if another job has made it."""
    try:
        log_dir(run_dir, number).mkdir()
    except FileExistsError:
        return False
    return True


def without_end(
    run_dir: Path, attempt: Attempt, *, reason: Reason = "unknown", is_requeued: bool = False
) -> Attempt:
    """Return the record of an attempt that could not write its end."""
    message = "the job script was ended from outside, for example because its node failed."
    return attempt.model_copy(
        update={
            "ended": time.time(),
            "last_step": newest_step(run_dir),
            "last_repair_step": newest_repair_step(run_dir),
            "reason": reason,
            "is_requeued": is_requeued,
            "message": message,
        }
    )


def write_attempt(run_dir: Path, attempt: Attempt) -> None:
    """Replace the record of an attempt."""
    path = record_path(run_dir, attempt.number)
    write_text(path, attempt.model_dump_json(indent=1) + "\n", sync=True)


def attempt_number(env: Mapping[str, str] = os.environ) -> int | None:
    """Return the number of the attempt that this process belongs to; None outside of a job."""
    text = env.get(ATTEMPT_VARIABLE, "")
    return int(text) if text.isdecimal() else None

"""Small files in which the processes of a run say what they do. `dskd status` reads them.

progress/run.json                   the launch that trains now, written by student rank 0
progress/student-00000.json         what a student rank does now (`RankProgress`)
progress/teacher-00000-HOST-PID.json   what a teacher does now (`TeacherHealth`)
progress/student-00000.stacks.txt   the stacks of a rank that hung, written by its watchdog
progress/ends/NAME.json             how a process, or the whole launch, ended (`End`)
attempts/submitted.json             the jobs that were submitted last (`Submission`)

Each file belongs to one process and is replaced as a whole. A file that is missing, half written or
from another version reads as None. A file that cannot be written costs one warning per process.
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from dskd_ds.files.atomic import write_text

PROGRESS_FOLDER = "progress"
ENDS_FOLDER = "progress/ends"
RUN_START_FILE = "progress/run.json"
SUBMISSION_FILE = "attempts/submitted.json"
STACKS_SUFFIX = ".stacks.txt"
REPAIR_FOLDER = "repair"
"""Metrics and checkpoints of the repair of a cut student."""
REPAIRED_FOLDER = "student_repaired"
"""The repaired student; the repair is done when it is there."""
TEACHER_WRITE_SECONDS = 5.0
"""Time between two writes of a teacher's file."""
WAITING_FOR_TEACHER = "waiting for the teacher"
"""The phase of a student that has nothing to compute until a reply comes."""
COMMAND_VARIABLE = "DSKD_COMMAND"
"""Environment variable with the command that starts the launch again, set by what started it."""

RoleName = Literal["student", "teacher", "launch"]


class Record(BaseModel):
    """Base of all records. Keys that this version does not know are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class RankProgress(Record):
    """What one student rank does now. Its watchdog rewrites it every few seconds."""

    role: RoleName = "student"
    rank: int
    host: str
    pid: int
    phase: str
    """For example `planning`, `forward`, `optimiser step`, `waiting for the teacher`, `save`."""
    step: int
    """Number of optimiser steps that are done."""
    since: float
    """When the phase began, in Unix seconds."""
    num_phases: int = 0
    """Phases entered so far. All ranks enter the same ones, so the lowest count is behind."""
    where: str = ""
    """The innermost line of Python that the training thread is in."""


class TeacherHealth(Record):
    """What one teacher does now, and who waits for whom."""

    role: RoleName = "teacher"
    rank: int
    """The teacher's replica number; teachers that were started on their own may share one."""
    host: str
    pid: int
    phase: str
    """`loading`, `serving` or `ended`."""
    since: float
    """When the phase began, in Unix seconds."""
    num_done: int = 0
    """Requests that it has answered or refused."""
    num_refused: int = 0
    """Requests that it has refused."""
    queue_length: int = 0
    """Requests that wait for its forward pass now."""
    busy_share: float = 0.0
    """Share of the time since the last write in which it computed."""
    idle_share: float = 0.0
    """Share of the time since the last write in which it had no request: the students' buffers were
    full, or no student was there."""
    last_error: str = ""
    """The last reason for which it refused a request."""
    rss_bytes: int = 0
    """The largest memory that the process has used."""
    num_ranks: int = 1
    """Ranks that hold the teacher together; the first of them writes this file."""
    name: str = ""
    """Its name, if the run has several teachers."""


class RunStart(Record):
    """The launch that trains now, or that was the last one to train."""

    host: str
    """Host of student rank 0."""
    pid: int
    """Process of student rank 0."""
    started: float
    """When training began, in Unix seconds."""
    attempt: int
    """Number of this launch among all launches of the run, from 1."""
    job_id: str
    """SLURM's job, or ""."""
    launcher: str
    num_students: int
    num_teachers: int
    """Teachers of the launch; 0 if they are started on their own."""
    first_step: int | None = None
    """Number of steps that were done before this launch; None while it loads."""
    num_steps: int | None = None
    """Number of steps of the whole run; None if it is not known yet."""
    command: str
    """What starts the launch again: the command, or a sentence if only a user can know it."""
    cwd: str
    """Folder in which the launch was started."""


class End(Record):
    """How one process ended, or the whole launch (role `launch`, written by `dskd train`)."""

    role: RoleName
    rank: int
    host: str
    pid: int
    exit_code: int
    message: str
    time: float
    """When it ended, in Unix seconds."""


class Submission(Record):
    """The jobs that were submitted last to train a run. They may wait in the queue, or be over."""

    job_ids: list[str]
    """Those that train it, in the order of their chain; not jobs of other stages or of teachers."""
    submitted: float
    """When their submission began, in Unix seconds: before the first of them could begin."""
    command: str
    """The command that submitted them, for the shell."""
    cwd: str
    """The folder in which it was called."""


Kind = TypeVar("Kind", bound=Record)


def progress_file(run_dir: Path, rank: int) -> Path:
    """Return the progress file of a student rank."""
    return run_dir / PROGRESS_FOLDER / f"student-{rank:05d}.json"


def stacks_file(run_dir: Path, rank: int) -> Path:
    """Return the file into which a student rank's watchdog writes the stacks of all threads."""
    return run_dir / PROGRESS_FOLDER / f"student-{rank:05d}{STACKS_SUFFIX}"


def teacher_file(run_dir: Path, replica: int) -> Path:
    """Return the health file of this process as a teacher.

    The name contains host and process, because several teachers may have the same number.
    """
    name = f"teacher-{replica:05d}-{socket.gethostname()}-{os.getpid()}.json"
    return run_dir / PROGRESS_FOLDER / name


def end_file(run_dir: Path, role: RoleName, rank: int) -> Path:
    """Return the file in which the end of a rank, or of the launch, is recorded."""
    return run_dir / ENDS_FOLDER / f"{role}-{rank:05d}.json"


def read_record(path: Path, kind: type[Kind]) -> Kind | None:
    """Return the record in a file, or None if there is none, or not a whole and valid one."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def read_records(run_dir: Path, pattern: str, kind: type[Kind]) -> dict[Path, Kind]:
    """Return the valid records of the files that match a pattern such as `progress/student-*.json`.

    Sorted by file name.
    """
    found = {path: read_record(path, kind) for path in sorted(run_dir.glob(pattern))}
    return {path: record for path, record in found.items() if record is not None}


class RecordFile:
    """Writes one record file again and again. A disk error costs one warning, not the run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._has_warned = False

    def write(self, record: Record) -> None:
        """Replace the file by a record. Readers see the old record or the new one."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, record.model_dump_json())
        except OSError as error:
            if not self._has_warned:
                print(
                    f"warning: {self.path}: cannot be written ({error}).\n"
                    "  the run goes on; dskd status does not see this process.",
                    file=sys.stderr,
                )
            self._has_warned = True


def record_end(
    run_dir: Path, role: RoleName, rank: int, *, exit_code: int, message: str, pid: int = 0
) -> None:
    """Record how this process, or the launch that it supervises, ended.

    pid: the process that ended; this one by default.
    """
    end = End(
        role=role,
        rank=rank,
        host=socket.gethostname(),
        pid=pid or os.getpid(),
        exit_code=exit_code,
        message=message,
        time=time.time(),
    )
    RecordFile(end_file(run_dir, role, rank)).write(end)


def record_submission(
    run_dir: Path, job_ids: Sequence[str], argv: Sequence[str], *, submitted: float
) -> None:
    """Record the jobs that were submitted to train a run.

    argv: of the command that did it. submitted: when it began to submit them, in Unix seconds.
    """
    submission = Submission(
        job_ids=list(job_ids),
        submitted=submitted,
        command=shlex.join(argv),
        cwd=str(Path.cwd()),
    )
    RecordFile(run_dir / SUBMISSION_FILE).write(submission)

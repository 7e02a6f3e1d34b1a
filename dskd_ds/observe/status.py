"""What `dskd status` says about a run, as data. `judge.py` fills it in, `--json` prints it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from dskd_ds.observe.attempts import Attempt
from dskd_ds.observe.run_state import State


class Part(BaseModel):
    """Base of the parts of a status."""

    model_config = ConfigDict(frozen=True)


class StudentStatus(Part):
    """A student rank. Ages and durations are in seconds."""

    rank: int
    pid: int
    phase: str
    phase_seconds: float
    step: int
    is_silent: bool
    """Whether it should have written its progress file again long ago."""


class TeacherStatus(Part):
    """A teacher. Ages and durations are in seconds."""

    replica: int
    pid: int
    phase: str
    num_done: int
    num_refused: int
    queue_length: int
    busy_share: float
    idle_share: float
    last_error: str
    is_silent: bool
    num_ranks: int = 1
    name: str = ""
    """Its name, if the run has several teachers."""


class NodeStatus(Part):
    """The processes of one host."""

    host: str
    students: list[StudentStatus]
    teachers: list[TeacherStatus]


class Speed(Part):
    """How fast the run is, over the last records of the present launch."""

    step_seconds: float
    tokens_per_second: float
    teacher_wait_share: float
    """Share of the step in which the students wait for the teacher: their buffers are empty."""
    sense_wait_share: float
    slowest_rank: int | None = None
    """The student whose own computation takes longest; None in runs of an older version."""
    slowest_factor: float | None = None
    """Its time divided by the median of the other students'."""


class Memory(Part):
    """The largest memory that any student has used, in bytes; None if it is unknown."""

    host_bytes: int | None = None
    device_bytes: int | None = None


class SaveStatus(Part):
    """The newest complete checkpoint."""

    step: int
    age_seconds: float
    save_seconds: float | None = None
    """How long training stood still for the last save."""


class BestStatus(Part):
    """The complete checkpoint with the lowest loss on held-out text."""

    step: int
    heldout_loss: float
    """Mean cross-entropy, in nats."""


class ErrorStatus(Part):
    """An error that a process recorded when it ended, whatever launch it was part of."""

    role: str
    rank: int
    host: str
    exit_code: int
    message: str
    age_seconds: float


class Status(Part):
    """Everything that `dskd status` says. Times are in seconds; None means unknown."""

    run_dir: str
    name: str
    state: State
    headline: str
    exit_code: int | None
    died_of: str | None
    what_to_do: str
    command: str | None
    """What to call next, for the shell."""
    attempt: int | None
    job_id: str | None
    attempts: list[Attempt]
    step: int
    num_steps: int | None
    tokens: int
    last_step_age_seconds: float | None
    eta_seconds: float | None
    speed: Speed | None
    memory: Memory
    skipped_steps: dict[str, int]
    """Number of skipped steps, by key of metrics.jsonl."""
    checkpoint: SaveStatus | None
    best: BestStatus | None = None
    num_students: int | None
    num_teachers: int | None
    nodes: list[NodeStatus]
    problems: list[str]
    errors: list[ErrorStatus]

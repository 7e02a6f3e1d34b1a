"""What the simulator needs to know of a run, taken from the plan or from a run's own metrics."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from dskd_ds.costs.clusters import Cluster
from dskd_ds.costs.constants import DEFAULT, Constants
from dskd_ds.costs.time import save_seconds, step_time, teacher_time
from dskd_ds.costs.work import StepWork, TeacherWork
from dskd_ds.errors import InputError
from dskd_ds.spec import RunSpec

WARM_UP_STEPS = 3
"""The first steps of a run compile, allocate and fill the buffers, and are left out."""


@dataclass(frozen=True)
class Pauses:
    """Everything that interrupts a run. Times are in seconds."""

    save_every_steps: int = 0
    """Save after so many steps; 0: never."""
    save_every_seconds: float = 0.0
    """Save when the last save is so long ago; 0: never."""
    save_blocks: float = 0.0
    """For how long a save stops the training."""
    save_written: float = 0.0
    """After how long a checkpoint can be resumed from; at least `save_blocks`."""
    failure_interval: float | None = None
    """Mean time between failures that end the launch; None: there are none."""
    restart: float = 0.0
    """From such a failure to the next step."""
    teacher_failure_interval: float | None = None
    """Mean time between failures of one teacher. The students go on without it."""
    teacher_return: float = 0.0
    """After how long a failed teacher is back."""


@dataclass(frozen=True)
class RunCosts:
    """Times of a run's parts, in seconds, and its sizes."""

    num_students: int
    num_teachers: int
    num_steps: int
    step_tokens: int
    """Tokens of all students per step."""
    num_micro_batches: int
    """Requests of each student per step."""
    own: float
    """A step of the students without any wait."""
    teacher: float
    """A teacher's forward pass per request."""
    transfer: float = 0.0
    """A request and its reply on the way, beside the teacher's work."""
    receiving: float = 0.0
    """The last part of `transfer`, in which a reply has its student's link to itself: replies to
    one student are received one after another."""
    prefetch_depth: int = 2
    credits: int = 2
    """Requests of one student that one teacher holds at most."""
    notice: float = 10.0
    """After how long a student notices that a teacher is gone."""
    jitter: float = 0.0
    """Spread of each student's and teacher's time: standard deviation of its logarithm."""
    slow_students: Mapping[int, float] = field(default_factory=dict)
    """Rank -> factor on its time."""
    slow_teachers: Mapping[int, float] = field(default_factory=dict)
    """Number of a teacher -> factor on its time."""
    killed_teachers: Mapping[int, float] = field(default_factory=dict)
    """Number of a teacher -> seconds after the start at which it is killed for good."""
    pauses: Pauses = Pauses()

    def __post_init__(self) -> None:
        """Raises InputError if a number is impossible."""
        for name in ("num_students", "num_teachers", "num_steps", "num_micro_batches", "credits"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)} is invalid.\n  use at least 1.")
        for name in ("own", "teacher"):
            if not getattr(self, name) > 0:
                raise InputError(
                    f"{name} = {getattr(self, name)} s is invalid.\n  use more than 0."
                )
        assert 0 <= self.receiving <= self.transfer, "receiving is a part of transfer"


def planned_costs(
    spec: RunSpec,
    work: StepWork,
    teacher: TeacherWork,
    *,
    cluster: Cluster,
    num_steps: int,
    num_teachers: int,
    constants: Constants = DEFAULT,
) -> RunCosts:
    """Return the costs of a run that was planned but has not started.

    num_steps, num_teachers: of the run; the spec may leave them open.
    """
    asked = teacher_time(teacher, cluster, constants)
    blocks, written = save_seconds(
        work, cluster, constants, asynchronous=spec.checkpoint.asynchronous
    )
    num_gpus = work.num_ranks
    pauses = Pauses(
        save_every_steps=spec.checkpoint.every_steps,
        save_every_seconds=60 * spec.checkpoint.every_minutes,
        save_blocks=blocks,
        save_written=written,
        failure_interval=3600 * constants.gpu_hours_per_failure / num_gpus,
        restart=constants.restart_seconds,
        teacher_failure_interval=(
            3600 * constants.gpu_hours_per_failure / teacher.ranks_per_teacher
        ),
        teacher_return=constants.restart_seconds,
    )
    return RunCosts(
        num_students=work.num_ranks,
        num_teachers=num_teachers,
        num_steps=num_steps,
        step_tokens=work.step_tokens,
        num_micro_batches=work.num_micro_batches,
        own=step_time(work, cluster, constants).total,
        teacher=asked.forward,
        transfer=asked.transfer,
        receiving=asked.transfer,  # as costs/time.py counts it
        prefetch_depth=spec.link.prefetch_depth,
        credits=spec.link.credits,
        notice=spec.link.dead_after_seconds,
        pauses=pauses,
    )


def measured_costs(
    spec: RunSpec,
    records: Sequence[Mapping[str, float]],
    *,
    teacher_seconds: float,
    num_teachers: int,
    num_steps: int,
) -> RunCosts:
    """Return the costs of a run as its own metrics.jsonl measured them.

    records: one per step. teacher_seconds: a teacher's forward pass per request.
    Raises InputError if there are too few records.
    """
    steady = records[WARM_UP_STEPS:]
    if not steady:
        raise InputError(
            f"metrics.jsonl has {len(records)} records, and the first {WARM_UP_STEPS} are left"
            " out.\n  run more steps."
        )
    own = statistics.median(
        record["step_seconds"] - record["teacher_wait_seconds"] for record in steady
    )
    return RunCosts(
        num_students=spec.topology.num_students,
        num_teachers=num_teachers,
        num_steps=num_steps,
        step_tokens=round(statistics.median(record["step_tokens"] for record in steady)),
        num_micro_batches=spec.num_accumulation_steps,
        own=own,
        teacher=teacher_seconds,
        prefetch_depth=spec.link.prefetch_depth,
        credits=spec.link.credits,
        notice=spec.link.dead_after_seconds,
    )


def without_faults(costs: RunCosts) -> RunCosts:
    """Return the same run with equal students and teachers that never fail."""
    return replace(costs, slow_students={}, slow_teachers={}, killed_teachers={}, pauses=Pauses())

"""Joins what a run needs: memory, time, traffic, checkpoints and dictionary. Loads no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from dskd_ds.costs.assumptions import assumptions
from dskd_ds.costs.capacity import Capacity, this_machine
from dskd_ds.costs.clusters import Cluster
from dskd_ds.costs.constants import DEFAULT, Constants
from dskd_ds.costs.dictionary_size import num_senses
from dskd_ds.costs.fit import Need, needs
from dskd_ds.costs.memory import number_bytes, run_signal
from dskd_ds.costs.run_shapes import RunShapes
from dskd_ds.costs.time import (
    StepTime,
    TeacherTime,
    save_seconds,
    step_time,
    teacher_time,
    teachers_needed,
)
from dskd_ds.costs.traffic import SignalBytes
from dskd_ds.costs.ways_out import WayOut, ways_out
from dskd_ds.costs.work import StepWork, TeacherWork, step_work, teacher_work
from dskd_ds.costs.zero_settings import zero_settings
from dskd_ds.spec import RunSpec

HOUR = 3600.0


@dataclass(frozen=True)
class Speed:
    """What a run takes in time."""

    step: StepTime
    teacher: TeacherTime | None
    """None if the run asks no teacher, but reads a cache."""
    teachers_needed: float
    """Teachers per run with which neither side waits; 0 if it asks none."""
    num_teachers: int
    """Teachers of the run, or if they are a job step of their own: as many as are needed."""
    num_steps: int | None
    """Of the run; None if it is given in epochs or tokens of an unknown text."""
    save_stop_seconds: float
    """How long training stops for a checkpoint."""
    save_write_seconds: float
    """How long until a checkpoint is on disk."""
    checkpoint_bytes: float
    dictionary_seconds: float
    """Reading the text of the dictionary with the run's teachers; 0 if it exists or is unused, or
    if the run asks no teacher."""
    link_bytes_per_second: float
    """Into each student."""
    teacher_bytes_per_second: float
    """Out of each teacher."""
    num_ranks: int

    @property
    def hours(self) -> float | None:
        """Hours of all steps; None if the number of steps is unknown."""
        if self.num_steps is None:
            return None
        return self.num_steps * self.step.total / HOUR

    @property
    def gpu_hours(self) -> float | None:
        """Hours times ranks."""
        return None if self.hours is None else self.hours * self.num_ranks


@dataclass(frozen=True)
class RunPlan:
    """What a run needs, where it is to run, and whether it fits."""

    name: str
    place: str
    """Name of the cluster, or "this machine"."""
    shapes: RunShapes
    needs: list[Need]
    ways_out: list[WayOut]
    """Empty if everything fits."""
    signal: SignalBytes
    speed: Speed | None
    """None if the speed of this machine is unknown (`calibration_here`)."""
    assumed: list[str]
    """What the figures assume, in sentences."""

    @property
    def is_refused(self) -> bool:
        """Whether the run would very likely fail for want of memory."""
        return any(need.is_refused for need in self.needs)

    @property
    def is_tight(self) -> bool:
        """Whether it may fail."""
        return any(need.is_tight for need in self.needs)


def make_plan(
    spec: RunSpec,
    shapes: RunShapes,
    cluster: Cluster | None,
    constants: Constants = DEFAULT,
    *,
    tokens: int | None = None,
    capacity: Capacity | None = None,
    no_times: str = "name a --cluster",
) -> RunPlan:
    """Return the plan of a run.

    cluster: where it is to run. None: this machine, whose speed is unknown. tokens: a budget that
    replaces the spec's length. capacity: memory of this machine, measured unless it is given.
    no_times: why there are no times without a cluster, for the reader.
    Raises InputError if the DeepSpeed file cannot be read.
    """
    is_here = cluster is None or cluster.architecture == "measured"
    if capacity is None:
        capacity = this_machine() if cluster is None or is_here else capacity_of(cluster)
    senses = num_senses(spec)
    found = needs(spec, shapes, capacity, num_senses=senses)
    is_tight = any(need.is_tight for need in found)
    return RunPlan(
        name=spec.name,
        place="this machine" if cluster is None or is_here else cluster.name,
        shapes=shapes,
        needs=found,
        ways_out=ways_out(spec, shapes, capacity, num_senses=senses) if is_tight else [],
        signal=run_signal(spec, shapes),
        speed=None if cluster is None else run_speed(spec, shapes, cluster, constants, tokens),
        assumed=assumptions(spec, cluster, no_times),
    )


def capacity_of(cluster: Cluster) -> Capacity:
    """Return the memory of a cluster's nodes."""
    return Capacity(
        gpu_bytes=cluster.memory_bytes,
        num_gpus=cluster.gpus_per_node,
        host_bytes=cluster.node_memory_bytes,
        source=cluster.name,
    )


def run_work(spec: RunSpec, shapes: RunShapes) -> tuple[StepWork, TeacherWork]:
    """Return what students and teachers of a run do."""
    signal = run_signal(spec, shapes)
    students = step_work(
        spec,
        shapes.student,
        teacher_width=shapes.teacher.hidden_size,
        zero_stage=zero_settings(spec.deepspeed).stage,
        sense_share=signal.sense_share,
    )
    teacher = teacher_work(
        spec,
        shapes.teacher,
        bytes_per_token=signal.total,
        sense_share=signal.sense_share,
        ranks_per_teacher=spec.topology.ranks_per_teacher,
    )
    return students, teacher


def run_speed(
    spec: RunSpec,
    shapes: RunShapes,
    cluster: Cluster,
    constants: Constants = DEFAULT,
    tokens: int | None = None,
) -> Speed:
    """Return what a run takes in time on a cluster. tokens: a budget, else the spec's length."""
    work, asked = run_work(spec, shapes)
    if cluster.architecture == "measured":
        work, asked = _in_formats_of_a_cpu(spec, work, asked)
    step = step_time(work, cluster, constants)
    teacher: TeacherTime | None = None
    needed, num_teachers, dictionary, received = 0.0, 0, 0.0, 0.0
    if spec.asks_teachers:
        teacher = teacher_time(asked, cluster, constants)
        needed = teachers_needed(work, step.own, teacher)
        # In a job step of their own the spec does not say how many: as many as it takes.
        num_teachers = spec.topology.num_teachers or math.ceil(needed)
        depth = spec.link.prefetch_depth
        step = step_time(
            work,
            cluster,
            constants,
            teacher=teacher,
            num_teachers=num_teachers,
            prefetch_depth=depth,
        )
        dictionary = _dictionary_seconds(spec, asked, teacher, num_teachers)
        received = asked.reply_bytes_per_token * step.tokens_per_second
    stop, write = save_seconds(work, cluster, constants, asynchronous=spec.checkpoint.asynchronous)
    num_steps = spec.train.num_steps
    if tokens is not None:
        num_steps = -(-tokens // work.step_tokens)
    return Speed(
        step=step,
        teacher=teacher,
        teachers_needed=needed,
        num_teachers=num_teachers,
        num_steps=num_steps,
        save_stop_seconds=stop,
        save_write_seconds=write,
        checkpoint_bytes=work.saved_bytes,
        dictionary_seconds=dictionary,
        link_bytes_per_second=received / work.num_ranks,
        teacher_bytes_per_second=received / max(num_teachers, 1),
        num_ranks=work.num_ranks + num_teachers * asked.ranks_per_teacher,
    )


def _in_formats_of_a_cpu(
    spec: RunSpec, work: StepWork, asked: TeacherWork
) -> tuple[StepWork, TeacherWork]:
    """Return the work in the formats that the spec's `auto` becomes without a GPU."""
    student = number_bytes(spec.student.dtype, "cpu")
    teacher = number_bytes(spec.teacher.dtype, "cpu")
    return (
        replace(work, parameter_bytes=student, gradient_bytes=student),
        replace(asked, parameter_bytes=teacher),
    )


def _dictionary_seconds(
    spec: RunSpec, asked: TeacherWork, teacher: TeacherTime, num_teachers: int
) -> float:
    """Return the seconds in which as many ranks as teachers read the text of the dictionary.

    Clustering and the index are not counted. 0 if the dictionary exists, or is not used.
    """
    if not spec.uses_senses or num_senses(spec) is not None:
        return 0.0
    tokens = sum(text.collect_tokens or spec.senses.collect_tokens for text in spec.senses.corpus)
    num_requests = (tokens or spec.senses.collect_tokens) / asked.request_tokens
    return num_requests * teacher.forward / num_teachers

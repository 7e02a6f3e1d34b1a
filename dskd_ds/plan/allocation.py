"""How many nodes a run needs, and how its ranks are spread over them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dskd_ds.errors import InputError
from dskd_ds.spec import RunSpec
from dskd_ds.spec.processes import LinkSpec

TEACHERS_JOB_WAIT_SECONDS = 4 * 3600
"""How long students wait for teachers in jobs of their own, unless the spec says it. Such a job may
wait in the queue, after it was requeued for two minutes at least (cred_expire in slurm.conf)."""


@dataclass(frozen=True)
class Allocation:
    """Ranks and nodes of both roles."""

    num_students: int
    num_student_nodes: int
    """Nodes of the students' step; of all ranks if `num_teacher_nodes` is 0."""
    students_per_node: int
    """Tasks on a full node of the students' step."""
    num_teachers: int
    num_teacher_nodes: int
    """0 if the teachers are the last ranks of the students' step."""
    teachers_per_node: int
    ranks_per_teacher: int = 1

    @property
    def num_nodes(self) -> int:
        """Nodes of the whole job."""
        return self.num_student_nodes + self.num_teacher_nodes

    @property
    def tasks_per_node(self) -> int:
        """The largest number of tasks on a node of the job."""
        return max(self.students_per_node, self.teacher_tasks_per_node)

    @property
    def teacher_tasks_per_node(self) -> int:
        """Tasks on a full node of teachers."""
        return self.teachers_per_node * self.ranks_per_teacher


def allocate(
    spec: RunSpec,
    *,
    ranks_per_node: int,
    teachers_per_node: int | None = None,
    most_teachers_per_node: int | None = None,
    num_teachers: int | None = None,
    have_own_nodes: bool = False,
) -> Allocation:
    """Return the allocation of a run.

    Students and teachers share one node, and one step, if they fit on it. Otherwise teachers get
    nodes of their own, so that a failed teacher does not end the students' step. The ranks of one
    teacher are on one node.

    ranks_per_node: usually the GPUs of a node. teachers_per_node: as many as fit by default.
    most_teachers_per_node: as many fit on a node of teachers, if its number of ranks is another.
    num_teachers: [topology] num_teachers by default. have_own_nodes: teachers always get nodes of
        their own.
    Raises InputError if the number of teachers is unknown, or if they do not fit on a node.
    """
    students, teachers = spec.topology.num_students, _num_teachers(spec, num_teachers)
    per_teacher = spec.topology.ranks_per_teacher
    most = most_teachers_per_node or _teachers_that_fit(per_teacher, ranks_per_node)
    per_node = teachers_per_node or most
    if per_node > most:
        raise InputError(
            f"--teachers-per-node {per_node}: a node has ranks for {most}"
            f" ([topology] ranks_per_teacher = {per_teacher}).\n"
            f"  give at most {most}, or leave it out: then as many as fit are on a node."
        )
    num_ranks = students + teachers * per_teacher
    if num_ranks <= ranks_per_node and not have_own_nodes and not teachers_per_node:
        return Allocation(
            num_students=students,
            num_student_nodes=1,
            students_per_node=num_ranks,
            num_teachers=teachers,
            num_teacher_nodes=0,
            teachers_per_node=0,
            ranks_per_teacher=per_teacher,
        )
    return Allocation(
        num_students=students,
        num_student_nodes=-(-students // ranks_per_node),
        students_per_node=min(students, ranks_per_node),
        num_teachers=teachers,
        num_teacher_nodes=-(-teachers // per_node),
        teachers_per_node=min(teachers, per_node),
        ranks_per_teacher=per_teacher,
    )


def _num_teachers(spec: RunSpec, given: int | None) -> int:
    """Return the number of teachers; that of [topology] if none is given. Raises InputError."""
    teachers = spec.topology.num_teachers if given is None else given
    if teachers < 1 and spec.teacher.source != "cache":
        raise InputError(
            "[topology] num_teachers = 0, so the number of teachers is unknown.\n"
            "  add --num-teachers N: they get a job step of their own."
        )
    num_further = spec.num_further_teachers
    if num_further and teachers <= num_further:
        raise InputError(
            f"--num-teachers {teachers}: the replicas of [[teachers]] are {num_further} of them,"
            f" and [teacher] needs at least one.\n  give {num_further + 1} or more."
        )
    return teachers


def _teachers_that_fit(ranks_per_teacher: int, ranks_per_node: int) -> int:
    """Return how many teachers fit on a node. Raises InputError if not even one does."""
    if ranks_per_teacher > ranks_per_node:
        raise InputError(
            f"[topology] ranks_per_teacher = {ranks_per_teacher}, but a node has {ranks_per_node}"
            " ranks, and all ranks of a teacher must be on one node.\n"
            f"  use at most {ranks_per_node}, or nodes with more GPUs."
        )
    return ranks_per_node // ranks_per_teacher


def teachers_of_node(options: Mapping[str, str], spec: RunSpec) -> int | None:
    """Return how many teachers fit on a node of teachers; None if its size is not given.

    options: of sbatch for the teachers alone. Their nodes may have another number of GPUs.
    Raises InputError if not even one teacher fits.
    """
    size = spec.topology.ranks_per_teacher
    given = [key for key in ("ntasks-per-node", "gpus-per-node") if options.get(key)]
    # sbatch also takes the GPUs' type: gpus-per-node=a100:4.
    number = re.fullmatch(r"(?:[^:,]+:)?(\d+)", options[given[0]]) if given else None
    if number is None:
        return None
    num_ranks = int(number[1])
    if num_ranks < size:
        raise InputError(
            f"--het-sbatch {given[0]}={num_ranks}: [topology] ranks_per_teacher = {size}, and all"
            " ranks of a teacher must be on one node.\n"
            f"  give {given[0]}={size} or more, or lower ranks_per_teacher."
        )
    return num_ranks // size


def settings_for(spec: RunSpec, allocation: Allocation, *, in_own_jobs: bool) -> list[str]:
    """Return what the spec lacks for an allocation: KEY=VALUE.

    in_own_jobs: whether the teachers are in jobs of their own.
    """
    settings, default = [], LinkSpec()
    if allocation.num_nodes > 1 and spec.link.address == default.address:
        settings.append("link.address=hostname")
    if in_own_jobs:
        settings.append("topology.num_teachers=0")
        if spec.link.teacher_wait_seconds == default.teacher_wait_seconds:
            settings.append(f"link.teacher_wait_seconds={TEACHERS_JOB_WAIT_SECONDS}")
    # Teachers in the students' step are ranks of its launch, which must have as many.
    is_in_launch = allocation.num_teacher_nodes == 0
    if is_in_launch and allocation.num_teachers != spec.topology.num_teachers:
        settings.append(f"topology.num_teachers={allocation.num_teachers}")
    return settings

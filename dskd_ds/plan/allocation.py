"""How many nodes a run needs, and how its ranks are spread over them."""

from __future__ import annotations

from dataclasses import dataclass

from dskd_ds.errors import InputError
from dskd_ds.spec import RunSpec


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
    num_teachers: int | None = None,
    have_own_nodes: bool = False,
) -> Allocation:
    """Return the allocation of a run.

    Students and teachers share one node, and one step, if they fit on it. Otherwise teachers get
    nodes of their own, so that a failed teacher does not end the students' step. The ranks of one
    teacher are on one node.

    ranks_per_node: usually the GPUs of a node. teachers_per_node: as many as fit by default.
    num_teachers: [topology] num_teachers by default. have_own_nodes: teachers always get nodes of
        their own.
    Raises InputError if the number of teachers is unknown, or if one does not fit on a node.
    """
    students = spec.topology.num_students
    teachers = spec.topology.num_teachers if num_teachers is None else num_teachers
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
    per_teacher = spec.topology.ranks_per_teacher
    per_node = teachers_per_node or ranks_per_node // per_teacher
    if per_node == 0:
        raise InputError(
            f"[topology] ranks_per_teacher = {per_teacher}, but a node has {ranks_per_node} ranks,"
            " and all ranks of a teacher must be on one node.\n"
            f"  use at most {ranks_per_node}, or nodes with more GPUs."
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

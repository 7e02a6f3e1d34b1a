"""The teachers of a run, each with the spec and the models under which it serves.

A teacher of [[teachers]] serves under a copy of the run's spec in which it stands in [teacher].
Each teacher has link files of its own, so students and teachers of different names never meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.spec import RunSpec
from dskd_ds.spec.teachers import MAIN_TEACHER, FurtherTeacherSpec, teacher_of_number

TEACHERS_FOLDER = "teachers"
"""Folder of a run directory with the link files of [[teachers]]."""


@dataclass(frozen=True)
class RoutedTeacher:
    """One of a run's teachers."""

    name: str
    spec: RunSpec
    """Its [teacher] is this teacher."""
    models: RunModels
    """Their teacher is this teacher."""
    weight: float = 1.0
    """Factor on the KL term at its text."""

    @property
    def link_root(self) -> Path:
        """Folder in which the link of this teacher has its files."""
        run_dir = Path(self.spec.run_dir)
        return run_dir if self.name == MAIN_TEACHER else run_dir / TEACHERS_FOLDER / self.name


def further_teachers(spec: RunSpec, models: RunModels) -> list[RoutedTeacher]:
    """Return the teachers of [[teachers]], in their order."""
    return [_further(spec, models, teacher) for teacher in spec.teachers]


def teacher_of_name(spec: RunSpec, models: RunModels, name: str) -> RoutedTeacher:
    """Return the teacher with a name; `main` is [teacher]."""
    teachers = {teacher.name: teacher for teacher in further_teachers(spec, models)}
    return teachers.get(name) or RoutedTeacher(MAIN_TEACHER, spec, models)


def served_teacher(spec: RunSpec, models: RunModels, number: int) -> RoutedTeacher:
    """Return the teacher that the process with this number serves as."""
    return teacher_of_name(spec, models, teacher_of_number(spec.teachers, number))


def _further(spec: RunSpec, models: RunModels, teacher: FurtherTeacherSpec) -> RoutedTeacher:
    own_spec = spec.for_teacher(teacher)
    own_model = NamedModel.of_teacher(own_spec.teacher, key=f"[teachers] {teacher.name}: model")
    # A student that is cut has the rows of [teacher]: no reply may name a token beyond them.
    student = models.student or models.teacher
    return RoutedTeacher(
        name=teacher.name,
        spec=own_spec,
        models=RunModels(own_model, student),
        weight=teacher.weight,
    )

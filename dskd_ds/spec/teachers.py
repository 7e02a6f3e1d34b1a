"""[[teachers]]: further teachers, and which teacher a process with a number is."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dskd_ds.spec.base import MAY_CHANGE, Dtype, Part, PositiveFloat, PositiveInt

MAIN_TEACHER = "main"
"""The name of the teacher in the section [teacher]."""


class FurtherTeacherSpec(Part):
    """A teacher beside [teacher] that is asked about the text of some sources only.

    It has the tokenizer of [teacher]. The dictionary, the cut of the student and the sense term
    stay with [teacher]; head_chunk_rows, compile and block_by_block of [teacher] hold for it too.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=64)
    """Name of this teacher, which sources write as `teacher`: at most 64 letters, digits, `_`
    and `-`. `main` is the name of [teacher]."""
    model: str
    """Hub name, folder of safetensors, or `.gguf` file of this teacher. Its tokenizer must be that
    of [teacher]; its size may differ."""
    dtype: Dtype = "auto"
    """Number format of this teacher's weights and forward pass. `auto`: bfloat16 where the machine
    is fast at it, else float32."""
    replicas: Annotated[PositiveInt, MAY_CHANGE] = 1
    """How many of the teachers that [topology] num_teachers counts are this one."""
    weight: PositiveFloat = 1.0
    """Factor on the KL term at the text that this teacher is asked about; that of [teacher] is
    1."""


def teacher_of_number(teachers: tuple[FurtherTeacherSpec, ...], number: int) -> str:
    """Return the name of the teacher with a number, counted over all replicas of a run.

    The first numbers are those of [[teachers]], in their order; all others are replicas of
    [teacher]. So a number stays the same teacher when replicas of [teacher] are added.
    """
    for teacher in teachers:
        if number < teacher.replicas:
            return teacher.name
        number -= teacher.replicas
    return MAIN_TEACHER

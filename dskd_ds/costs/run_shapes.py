"""The sizes of a run's two models, read from their configurations. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass

from dskd_ds.costs.shapes import ModelShape, model_shape
from dskd_ds.errors import InputError
from dskd_ds.models.config_file import read_config_file
from dskd_ds.spec import RunSpec


@dataclass(frozen=True)
class RunShapes:
    """The sizes of teachers and student."""

    teacher: ModelShape
    student: ModelShape
    further_teachers: tuple[ModelShape, ...] = ()
    """Those of [[teachers]], in their order."""

    @property
    def has_map(self) -> bool:
        """Whether trained maps bridge two hidden sizes, if the run compares states."""
        return self.teacher.hidden_size != self.student.hidden_size


def run_shapes(spec: RunSpec) -> RunShapes:
    """Read the sizes of a run's models; weights are not read.

    Raises NoFormulaError as `model_shape` does, and InputError if a configuration cannot be read or
    if more layers are kept than exist.
    """
    teacher = model_shape(read_config_file(spec.teacher.model), spec.teacher.model)
    further = tuple(
        model_shape(read_config_file(one.model, f"[teachers] {one.name}: model"), one.model)
        for one in spec.teachers
    )
    if spec.student.model is not None:
        config = read_config_file(spec.student.model, "[student] model")
        return RunShapes(teacher, model_shape(config, spec.student.model), further)
    num_layers = _kept_layers(spec) or teacher.num_layers
    if num_layers > teacher.num_layers:
        raise InputError(
            f"[student] keeps {num_layers} layers, but the teacher has {teacher.num_layers}.\n"
            f"  keep at most {teacher.num_layers}, or name a larger teacher in [teacher] model."
        )
    return RunShapes(teacher, teacher.with_layers(num_layers), further)


def _kept_layers(spec: RunSpec) -> int | None:
    """Return how many layers the student keeps; None: all."""
    if spec.student.layers == "list":
        return len(spec.student.keep_layers)
    return spec.student.num_layers

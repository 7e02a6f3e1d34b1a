"""Makes the student's initial model: a copy of the teacher with some of its layers.

The copy is an ordinary Hugging Face folder. Weights are copied tensor by tensor from file to file,
so a 70B model needs no more memory than its largest shard.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from filelock import FileLock

from dskd_ds.errors import InputError
from dskd_ds.files.atomic import atomic_folder
from dskd_ds.models.cut import cut
from dskd_ds.models.layers import check_layers
from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.spec import RunSpec
from dskd_ds.spec.models import StudentSpec

INIT_FOLDER = "student_init"
ORIGIN_FILE = "origin.json"
ORIGIN_SETTINGS = {"layers", "num_layers", "keep_layers", "impact_tokens"}
"""Keys of [student] that decide which layers are kept."""


def student_init(spec: RunSpec, models: RunModels) -> NamedModel:
    """Return the initial student: the model that the spec names, or a folder cut from the teacher.

    The first call cuts the teacher (for `by_impact` it measures the layers first); later calls
    find the folder. Raises InputError if the model does not exist, if the teacher cannot be cut,
    or if the folder was cut with other settings.
    """
    if models.student is not None:
        models.student.locate()
        return models.student
    target = Path(spec.run_dir) / INIT_FOLDER
    target.parent.mkdir(parents=True, exist_ok=True)
    settings = spec.student.model_dump(include=ORIGIN_SETTINGS, mode="json")
    origin = {"teacher": models.teacher.fingerprint, **settings}
    # All ranks of a launch call this at the same time; the first one cuts, the others wait.
    with FileLock(f"{target}.lock"):
        if target.is_dir():
            _check_origin(target, origin)
        else:
            _cut_student(spec, models.teacher, target, origin)
    return NamedModel.of_student(str(target), spec.student)


def _cut_student(spec: RunSpec, teacher: NamedModel, target: Path, origin: dict[str, Any]) -> None:
    """Write the teacher with some of its layers to `target`, which appears whole or not at all."""
    check_layers(teacher)
    kept, impact = kept_layers(spec, teacher)
    content = {"made_from": origin, "kept_layers": kept, "impact": impact}
    with atomic_folder(target) as partial:
        cut(teacher, kept, partial)
        (partial / ORIGIN_FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")


def _check_origin(target: Path, origin: dict[str, Any]) -> None:
    """Raise InputError if the student in `target` was cut with other settings."""
    found = json.loads((target / ORIGIN_FILE).read_text(encoding="utf-8"))["made_from"]
    if found == origin:
        return
    changes = [
        f"{key}: {found.get(key)} -> {value}"
        for key, value in origin.items()
        if found.get(key) != value
    ]
    raise InputError(
        f"{target}: this student was cut with other settings ({', '.join(changes)}).\n"
        "  delete the folder to cut a new student, or set another run_dir."
    )


def kept_layers(spec: RunSpec, teacher: NamedModel) -> tuple[list[int], list[float]]:
    """Return the numbers of the teacher's layers that the student keeps, from 0, ascending.

    The second list is what `by_impact` measured for each layer; it is empty for other choices.
    Raises InputError if the teacher does not have these layers.
    """
    student = spec.student
    total = teacher.num_layers
    _check_depth(student, total)
    if student.layers == "list":
        return list(student.keep_layers), []
    if student.layers == "first":
        return list(range(student.num_layers or total)), []
    if student.layers == "by_impact":
        from dskd_ds.student.impact import removal_losses

        impact = removal_losses(spec.data, teacher, student.impact_tokens)
        by_falling_impact = sorted(range(total), key=lambda layer: -impact[layer])
        return sorted(by_falling_impact[: student.num_layers]), impact
    return list(range(total)), []


def _check_depth(student: StudentSpec, total: int) -> None:
    """Raise InputError if the student is to have layers that a teacher of `total` layers lacks."""
    if student.num_layers is not None and student.num_layers > total:
        raise InputError(
            f"[student] num_layers = {student.num_layers}, but the teacher has {total} layers.\n"
            f"  keep at most {total}, or name a larger teacher in [teacher] model."
        )
    last = max(student.keep_layers, default=0)
    if last >= total:
        raise InputError(
            f"[student] keep_layers contains {last}, but the teacher's layers are"
            f" 0 to {total - 1}.\n"
            f"  use numbers up to {total - 1}, or name a larger teacher in [teacher] model."
        )

"""The student's beginning: the teacher with some of its layers, written as an ordinary Hugging Face folder.

Weights are copied tensor by tensor from file to file, so a 70B model needs no more memory than its largest tensor's shard.
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

INIT_FOLDER = "student_init"
ORIGIN_FILE = "origin.json"


def student_init(spec: RunSpec, models: RunModels) -> NamedModel:
    """Return the model that training starts from: the one that the spec names, or a folder cut from the teacher.

    Cuts the teacher the first time (for `by_impact`, after measuring it); later calls find the folder. Raises InputError.
    """
    if models.student is not None:
        models.student.locate()
        return models.student
    target = Path(spec.run_dir) / INIT_FOLDER
    target.parent.mkdir(parents=True, exist_ok=True)
    origin = {
        "teacher": models.teacher.fingerprint,
        **spec.student.model_dump(
            include={"layers", "num_layers", "keep_layers", "impact_tokens"}, mode="json"
        ),
    }
    with FileLock(f"{target}.lock"):
        if target.is_dir():
            _check_origin(target, origin)
        else:
            _cut_student(spec, models.teacher, target, origin)
    return NamedModel.of_student(str(target), spec.student)


def _cut_student(spec: RunSpec, teacher: NamedModel, target: Path, origin: dict[str, Any]) -> None:
    """Write the teacher with some of its layers; whole or not at all."""
    check_layers(teacher)
    kept, impact = kept_layers(spec, teacher)
    content = {"made_from": origin, "kept_layers": kept, "impact": impact}
    with atomic_folder(target) as partial:
        cut(teacher, kept, partial)
        (partial / ORIGIN_FILE).write_text(json.dumps(content, indent=1))


def _check_origin(target: Path, origin: dict[str, Any]) -> None:
    """Raise InputError if the student in `target` was cut from something else."""
    found = json.loads((target / ORIGIN_FILE).read_text())["made_from"]
    if found != origin:
        changed = ", ".join(
            f"{key}: {found.get(key)} -> {value}"
            for key, value in origin.items()
            if found.get(key) != value
        )
        raise InputError(
            f"{target}: it was cut with other settings ({changed}).\n"
            "  delete it to cut a new student, or give the run another run_dir."
        )


def kept_layers(spec: RunSpec, teacher: NamedModel) -> tuple[list[int], list[float]]:
    """Which of the teacher's layers the student keeps, and what `by_impact` measured (else empty). Raises InputError."""
    student = spec.student
    total = teacher.num_layers
    for value in (student.num_layers, max(student.keep_layers, default=None)):
        if value is not None and value > total - (value in student.keep_layers):
            raise InputError(
                f"[student] {'keep_layers' if student.keep_layers else 'num_layers'}: {value}, but the teacher has "
                f"{total} layers.\n  keep at most {total}, or name a larger teacher in [teacher] model."
            )
    if student.layers == "list":
        return list(student.keep_layers), []
    if student.layers == "first":
        return list(range(student.num_layers or total)), []
    if student.layers == "by_impact":
        from dskd_ds.student.impact import removal_losses

        impact = removal_losses(spec.data, teacher, student.impact_tokens)
        hardest = sorted(range(total), key=lambda layer: -impact[layer])[: student.num_layers]
        return sorted(hardest), impact
    return list(range(total)), []

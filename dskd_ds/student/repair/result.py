"""The repaired student: a folder beside the cut student, from which distillation starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import deepspeed
from torch import Tensor

from dskd_ds.errors import InputError
from dskd_ds.files.atomic import atomic_folder
from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.models.replace import copy_with
from dskd_ds.observe.run_files import REPAIRED_FOLDER
from dskd_ds.spec import RunSpec
from dskd_ds.student.deepspeed_engine import Engine
from dskd_ds.student.depth import ORIGIN_FILE, student_init

PREFIX = "language_model."
"""What the names of the student's weights begin with in DeepSpeed's module."""


def distilled_init(spec: RunSpec, models: RunModels) -> NamedModel:
    """Return the model that distillation starts from: the cut student, repaired if [repair] asks.

    Raises InputError as `student_init` does, and if the student is not repaired yet, or was
    repaired with other settings.
    """
    init = student_init(spec, models)
    if not spec.repair.steps:
        return init
    folder = repaired_folder(spec)
    if not folder.is_dir():
        raise InputError(
            f"{folder}: the student is not repaired yet ([repair] steps = {spec.repair.steps}).\n"
            "  train first: dskd train SPEC.toml"
        )
    return open_repaired(spec, init)


def repaired_folder(spec: RunSpec) -> Path:
    """Return where a run keeps its repaired student."""
    return Path(spec.run_dir) / REPAIRED_FOLDER


def open_repaired(spec: RunSpec, init: NamedModel) -> NamedModel:
    """Return the repaired student. Raises InputError if it was repaired with other settings."""
    folder = repaired_folder(spec)
    found = json.loads((folder / ORIGIN_FILE).read_text(encoding="utf-8"))
    changed = [key for key, value in origin_of(spec, init).items() if found.get(key) != value]
    if changed:
        raise InputError(
            f"{folder}: this student was repaired with another {', '.join(changed)}.\n"
            "  delete the folder and the run's checkpoints to repair it again, or set another"
            " run_dir."
        )
    return NamedModel.of_student(str(folder), spec.student)


def origin_of(spec: RunSpec, init: NamedModel) -> dict[str, Any]:
    """Return what a repaired student depends on, besides text and teacher."""
    return {"student_init": init.fingerprint, "seed": spec.seed, **spec.repair.model_dump()}


def gather_and_write(engine: Engine, spec: RunSpec, init: NamedModel) -> None:
    """Gather the repaired weights, one at a time, and write the student. A collective call."""
    is_first_rank = engine.global_rank == 0
    weights: dict[str, Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        with deepspeed.zero.GatheredParameters([parameter]):
            if is_first_rank:
                # Copied in any case: the gathered tensor is released at the end of this block.
                weights[name.removeprefix(PREFIX)] = parameter.detach().to("cpu", copy=True)
    if is_first_rank:
        write_repaired(spec, init, weights)


def write_repaired(spec: RunSpec, init: NamedModel, weights: Mapping[str, Tensor]) -> None:
    """Write the repaired student, which appears whole or not at all."""
    with atomic_folder(repaired_folder(spec)) as partial:
        copy_with(init, weights, partial)
        origin = origin_of(spec, init)
        (partial / ORIGIN_FILE).write_text(json.dumps(origin, indent=1), encoding="utf-8")

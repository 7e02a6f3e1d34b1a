"""Counts a student's activations with the very model and fake tensors, beside the formula's."""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import Any

from dskd_ds.costs.activations import activation_bytes
from dskd_ds.costs.run_shapes import RunShapes
from dskd_ds.models.layers import keep_in_config
from dskd_ds.models.named import RunModels
from dskd_ds.plan.fake_student import FakeSizes, step_memory
from dskd_ds.runtime.devices import resolve_dtype
from dskd_ds.spec import RunSpec

GB = 1e9


def exact_memory(spec: RunSpec, shapes: RunShapes) -> dict[str, float]:
    """Return the bytes of one micro-batch: of `StepMemory`, and `kept_by_formula`.

    Raises InputError if the student's configuration cannot be read.
    """
    dtype = resolve_dtype(spec.student.dtype)
    sizes = FakeSizes(shapes.teacher.hidden_size, dtype)
    counted = step_memory(spec, student_config(spec, shapes), sizes)
    layers = spec.student.train_last_layers or shapes.student.num_layers
    formula = activation_bytes(
        shapes.student,
        rows=spec.train.micro_batch_blocks,
        row_tokens=spec.data.block_tokens,
        number_bytes=dtype.itemsize,
        trained_layers=min(layers, shapes.student.num_layers),
        checkpointing=spec.student.activation_checkpointing,
        packed=spec.data.packing == "blocks",
    )
    return {**asdict(counted), "kept_by_formula": formula.kept + formula.states}


def exact_lines(found: dict[str, float]) -> list[str]:
    """Return lines with what `exact_memory` found."""
    return [
        "",
        "one micro-batch of the very model, with fake tensors on a CPU",
        f"  {'kept for the backward pass':<34}{found['kept'] / GB:10.3f} GB",
        f"  {'of that by formula: activations':<34}{found['kept_by_formula'] / GB:10.3f} GB",
        f"  {'most at any moment':<34}{found['peak'] / GB:10.3f} GB, with"
        f" {found['gradients'] / GB:.3f} GB of gradients",
    ]


def student_config(spec: RunSpec, shapes: RunShapes) -> Any:
    """Return the student's transformers configuration, with the layers that it keeps.

    Which layers they are does not matter here, so the first ones stand for them.
    """
    models = RunModels.of(spec)
    if models.student is not None:
        return models.student.config
    config = copy.deepcopy(models.teacher.config)  # the original is shared (NamedModel.config)
    keep_in_config(config.get_text_config(), list(range(shapes.student.num_layers)))
    return config

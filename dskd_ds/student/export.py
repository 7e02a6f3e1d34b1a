"""Writes the trained student as an ordinary Hugging Face folder, which loads without this package.

The folder holds the weights as safetensors, the configuration and the tokenizer.
"""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import Tensor

from dskd_ds.errors import InputError
from dskd_ds.files.atomic import atomic_folder
from dskd_ds.files.manifest import read_manifest
from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.spec import RunSpec
from dskd_ds.student.checkpoint import checkpoint_dir, complete_tags
from dskd_ds.student.deepspeed_engine import Engine
from dskd_ds.student.depth import student_init

FOLDER = "student"
PREFIX = "language_model."
"""What the names of the student's weights begin with in DeepSpeed's module."""
WHOLE_FILE = "mp_rank_00_model_states.pt"
"""DeepSpeed's name for the file with all weights, which it writes up to ZeRO stage 2."""


def gather_and_export(engine: Engine, spec: RunSpec, models: RunModels) -> Path:
    """Gather the student from all ranks, write it from rank 0, and return the folder.

    One parameter is gathered at a time. A collective call.
    """
    is_first_rank = engine.global_rank == 0
    weights: dict[str, Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            if is_first_rank and name.startswith(PREFIX):
                # Copied in any case: the gathered tensor is released at the end of this block.
                weight = parameter.detach().to("cpu", torch.bfloat16, copy=True)
                weights[name.removeprefix(PREFIX)] = weight
    target = Path(spec.run_dir) / FOLDER
    if is_first_rank:
        write_student(student_init(spec, models), models.teacher.tokenizer, weights, target)
    return target


def export_checkpoint(spec: RunSpec, models: RunModels, tag: str | None = None) -> Path:
    """Write the student of a saved checkpoint, in one process, and return the folder.

    tag: the checkpoint's folder name; None takes the newest complete checkpoint.
    Raises InputError if there is no such checkpoint, or if its files differ from its manifest.
    """
    checkpoint = checkpoint_dir(spec) / _existing_tag(spec, tag)
    read_manifest(checkpoint)
    weights = {
        name.removeprefix(PREFIX): tensor.to(torch.bfloat16)
        for name, tensor in read_weights(checkpoint).items()
        if name.startswith(PREFIX)
    }
    target = Path(spec.run_dir) / FOLDER
    write_student(student_init(spec, models), models.teacher.tokenizer, weights, target)
    return target


def _existing_tag(spec: RunSpec, tag: str | None) -> str:
    """Return `tag`, or the newest one if None. Raises InputError if it is not complete."""
    tags = complete_tags(spec)
    if not tags:
        raise InputError(
            f"{checkpoint_dir(spec)}: there is no complete checkpoint.\n"
            "  train first: dskd train SPEC.toml"
        )
    if tag is not None and tag not in tags:
        raise InputError(
            f"{checkpoint_dir(spec)}: there is no complete checkpoint {tag}.\n"
            f"  complete checkpoints: {', '.join(tags)}."
        )
    return tag or tags[-1]


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Return every parameter of a checkpoint whose manifest was verified.

    Up to ZeRO stage 2 the parameters have the student's dtype; at stage 3 they are float32. Raises
    InputError if a file of stages 0 to 2 holds other objects than tensors and plain values.
    Source: docs/deepspeed.md, "Checkpoints".
    """
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    path = checkpoint / WHOLE_FILE
    if not path.is_file():  # stage 3
        partitioned: dict[str, Tensor] = get_fp32_state_dict_from_zero_checkpoint(
            str(checkpoint.parent), checkpoint.name
        )
        return partitioned
    # Up to stage 2 one file has all parameters. It is read here without unpickling, because
    # DeepSpeed's reader fails at stage 0 and unpickles at the other stages.
    try:
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path}: the file holds more than tensors and plain values, so it is not read:"
            f" {reason}\n"
            "  resume the run and let it finish: training exports its student itself."
        ) from None
    whole: dict[str, Tensor] = state["module"]
    return whole


def write_student(
    init: NamedModel, tokenizer: Any, weights: dict[str, Tensor], target: Path
) -> None:
    """Write configuration, weights and tokenizer to `target`, which appears whole or not at all.

    init: the model that training started from. weights: by their names in that model.
    """
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(init.config)  # from_config may write into it
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    if getattr(config.get_text_config(), "tie_word_embeddings", False):
        weights.pop("lm_head.weight", None)
    missing = {name for name, _ in model.named_parameters()} - set(weights)
    assert not missing, f"the export lacks {sorted(missing)[:5]}"
    with atomic_folder(target) as partial:
        model.save_pretrained(partial, state_dict=weights)
        tokenizer.save_pretrained(partial)

"""The trained student as an ordinary Hugging Face folder: safetensors, config, tokenizer; loads without this package."""

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
from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.spec import RunSpec
from dskd_ds.student.depth import student_init

FOLDER = "student"
PREFIX = "language_model."
WHOLE_FILE = "mp_rank_00_model_states.pt"
"""DeepSpeed's name for the file with the model, where each rank has all of it."""


def export_engine(engine: Any, spec: RunSpec, models: RunModels) -> Path:
    """Gather the student from all ranks, one parameter at a time, and write it from rank 0. All ranks call it."""
    weights: dict[str, Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            if engine.global_rank == 0 and name.startswith(PREFIX):
                weights[name.removeprefix(PREFIX)] = parameter.detach().to(
                    "cpu", torch.bfloat16, copy=True
                )
    target = Path(spec.run_dir) / FOLDER
    if engine.global_rank == 0:
        write_student(student_init(spec, models), models.teacher.tokenizer, weights, target)
    return target


def export_checkpoint(spec: RunSpec, models: RunModels, tag: str | None = None) -> Path:
    """Write the student of a saved checkpoint (the newest complete one unless `tag` names another), without a launch."""
    from dskd_ds.files.manifest import read_manifest
    from dskd_ds.student.checkpoint import checkpoint_dir, complete_tags

    tags = complete_tags(spec)
    if tag is None and not tags:
        raise InputError(
            f"{checkpoint_dir(spec)}: there is no complete checkpoint.\n  train first: dskd train SPEC.toml"
        )
    if tag is not None and tag not in tags:
        raise InputError(
            f"{checkpoint_dir(spec)}: there is no complete checkpoint {tag}.\n  there are: {', '.join(tags) or 'none'}."
        )
    folder = checkpoint_dir(spec)
    read_manifest(folder / (tag or tags[-1]))
    state = read_weights(folder / (tag or tags[-1]))
    weights = {
        name.removeprefix(PREFIX): tensor.to(torch.bfloat16)
        for name, tensor in state.items()
        if name.startswith(PREFIX)
    }
    target = Path(spec.run_dir) / FOLDER
    write_student(student_init(spec, models), models.teacher.tokenizer, weights, target)
    return target


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Every parameter of a checkpoint whose manifest was verified: as it was trained up to ZeRO stage 2, in float32 at stage 3.

    Up to stage 2 one file has all of them. DeepSpeed's own reader fails for stage 0, and unpickles the others. Raises InputError.
    """
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    path = checkpoint / WHOLE_FILE
    if not path.is_file():
        partitioned: dict[str, Tensor] = get_fp32_state_dict_from_zero_checkpoint(
            str(checkpoint.parent), checkpoint.name
        )
        return partitioned
    try:
        whole: dict[str, Tensor] = torch.load(
            path, map_location="cpu", mmap=True, weights_only=True
        )["module"]
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: it holds more than tensors and plain values, so it is not read: {str(error).splitlines()[0]}\n"
            "  go on with the run to its end: training exports its student itself."
        ) from None
    return whole


def write_student(
    init: NamedModel, tokenizer: Any, weights: dict[str, Tensor], target: Path
) -> None:
    """Write config, weights and tokenizer; whole or not at all. init: what training started from."""
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

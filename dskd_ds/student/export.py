"""Writes the trained student as an ordinary Hugging Face folder, which loads without this package.

The folder holds the weights as safetensors, the configurations of model and text generation, and
the tokenizer.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import Tensor

from dskd_ds.errors import InputError
from dskd_ds.files.atomic import atomic_folder
from dskd_ds.files.manifest import (
    FileEntry,
    file_problem,
    parse_manifest,
    refuse_unlisted_files,
)
from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.models.resolve import copy_generation
from dskd_ds.observe.best_checkpoint import best_checkpoint
from dskd_ds.spec import RunSpec
from dskd_ds.student.checkpoint.folders import (
    checkpoint_dir,
    complete_tags,
    refuse_other_layout,
    refuse_other_student,
)
from dskd_ds.student.checkpoint.slice_files import MASTER, SUFFIX, SavedSlices
from dskd_ds.student.deepspeed_engine import Engine
from dskd_ds.student.repair.result import PREFIX, distilled_init

FOLDER = "student"
BEST = "best"
"""Stands for the checkpoint with the lowest loss on held-out text."""


class DamagedError(Exception):
    """A checkpoint's files differ from its manifest, or it has been deleted meanwhile."""


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
        write_student(distilled_init(spec, models), models.teacher.tokenizer, weights, target)
    return target


def export_checkpoint(spec: RunSpec, models: RunModels, tag: str | None = None) -> Path:
    """Write the student of a saved checkpoint, in one process, and return the folder.

    tag: the checkpoint's folder name, or BEST for the one with the lowest loss on held-out text;
    None takes the newest one whose files are whole, with a warning on stderr for each that is
    passed over. One parameter is read at a time.
    Raises InputError if there is no such checkpoint, or if it is of another student or layout.
    """
    init, weights = _newest_weights(spec, models, tag)
    target = Path(spec.run_dir) / FOLDER
    write_student(init, models.teacher.tokenizer, weights, target)
    return target


def export_folder(spec: RunSpec, models: RunModels, checkpoint: Path, target: Path) -> Path:
    """Write the student of one checkpoint to `target`, in one process, and return `target`.

    checkpoint: folder of its files, which may lie outside of the run's checkpoints.
    Raises InputError if its files are damaged, or if it is of another student or layout.
    """
    try:
        facts, files = _whole_checkpoint(checkpoint)
    except DamagedError as error:
        raise InputError(f"{error}\n  this checkpoint cannot be exported.") from None
    init = distilled_init(spec, models)
    refuse_other_student(checkpoint, facts, init.fingerprint)
    weights = read_weights(checkpoint, facts, files, init)
    write_student(init, models.teacher.tokenizer, weights, target)
    return target


def _newest_weights(
    spec: RunSpec, models: RunModels, tag: str | None
) -> tuple[NamedModel, dict[str, Tensor]]:
    """Return the initial student and the weights of a checkpoint, or of the newest whole one."""
    problems: list[str] = []
    for candidate in _candidates(spec, tag):
        checkpoint = checkpoint_dir(spec) / candidate
        try:
            # First what costs nothing: it may cut a model.
            facts, files = _whole_checkpoint(checkpoint)
            init = distilled_init(spec, models)
            refuse_other_student(checkpoint, facts, init.fingerprint)
            return init, read_weights(checkpoint, facts, files, init)
        except (DamagedError, OSError) as error:
            # A running training may have deleted it meanwhile, because newer ones are complete.
            problems.append(f"{error}")
            print(f"{error}\n  {candidate} is passed over.", file=sys.stderr)
    raise InputError(
        f"{checkpoint_dir(spec)}: no checkpoint is whole: {'; '.join(problems)}\n"
        f"  complete ones: {', '.join(complete_tags(spec)) or 'none'}."
    )


def _candidates(spec: RunSpec, tag: str | None) -> list[str]:
    """Return the one that `tag` means, or all, newest first. Raises InputError without any."""
    tags = complete_tags(spec)
    if not tags:
        raise InputError(
            f"{checkpoint_dir(spec)}: there is no complete checkpoint.\n"
            "  train first: dskd train SPEC.toml"
        )
    if tag == BEST:
        return [_best_tag(spec)]
    if tag is not None and tag not in tags:
        raise InputError(
            f"{checkpoint_dir(spec)}: there is no complete checkpoint {tag}.\n"
            f"  complete checkpoints: {', '.join(tags)}."
        )
    return [tag] if tag else tags[::-1]


def _best_tag(spec: RunSpec) -> str:
    """Return the best checkpoint's folder name. Raises InputError if none was measured."""
    best = best_checkpoint(checkpoint_dir(spec))
    if best is None:
        raise InputError(
            f"--tag {BEST}: no checkpoint in {checkpoint_dir(spec)} has a loss on held-out text.\n"
            "  set [checkpoint] keep_best = true before you train, or name a checkpoint:"
            f" {', '.join(complete_tags(spec))}."
        )
    return best.tag


def read_weights(
    checkpoint: Path, facts: dict[str, Any], files: Iterable[str], init: NamedModel
) -> dict[str, Tensor]:
    """Return every parameter of a checkpoint's student in bfloat16, by its name in `init`.

    facts, files: of the checkpoint's manifest, compared before. Frozen parameters come from `init`.
    """
    dtype: torch.dtype = getattr(torch, facts["dtype"])
    weights: dict[str, Tensor] = {}
    frozen: list[str] = []
    paths = [checkpoint / name for name in files if name.endswith(SUFFIX)]
    with SavedSlices(paths) as saved:
        for name, parameter in empty_model(init).named_parameters():
            trained = f"{PREFIX}{name}"
            if trained in saved.numel:
                weight = saved.read_whole(trained, MASTER).view(parameter.shape)
                # The student computes in its own number format, which may be narrower than both.
                weights[name] = weight.to(dtype).to(torch.bfloat16)
            else:
                frozen.append(name)
    return weights | _frozen_weights(frozen, init, dtype)


def _whole_checkpoint(checkpoint: Path) -> tuple[dict[str, Any], dict[str, FileEntry]]:
    """Return facts and files of a checkpoint after comparing them with its manifest.

    Raises DamagedError if they differ, InputError if there is an unlisted file.
    """
    try:
        facts, files = parse_manifest(checkpoint)
    except InputError as error:
        raise DamagedError(str(error)) from None
    refuse_other_layout(checkpoint, facts)
    refuse_unlisted_files(checkpoint, files)
    for name, expected in files.items():
        problem = file_problem(checkpoint / name, expected)
        if problem:
            raise DamagedError(f"{problem}.")
    return facts, files


def _frozen_weights(names: list[str], init: NamedModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return parameters that were not trained from the initial student, in bfloat16."""
    if not names:
        return {}
    parameters = dict(init.load(dtype).named_parameters())
    return {name: parameters[name].detach().to(torch.bfloat16) for name in names}


def empty_model(init: NamedModel) -> Any:
    """Return a model of the student's architecture without weights."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(init.config)  # from_config may write into it
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def write_student(
    init: NamedModel, tokenizer: Any, weights: dict[str, Tensor], target: Path
) -> None:
    """Write configuration, weights and tokenizer to `target`, which appears whole or not at all.

    init: the model that training started from. weights: by their names in that model.
    """
    model = empty_model(init)
    if getattr(model.config.get_text_config(), "tie_word_embeddings", False):
        weights.pop("lm_head.weight", None)
    missing = {name for name, _ in model.named_parameters()} - set(weights)
    assert not missing, f"the export lacks {sorted(missing)[:5]}"
    with atomic_folder(target) as partial:
        model.save_pretrained(partial, state_dict=weights)
        tokenizer.save_pretrained(partial)
        copy_generation(init.path, partial)

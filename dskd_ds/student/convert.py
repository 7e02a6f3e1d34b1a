"""Converts a checkpoint that DeepSpeed wrote for an earlier version into the present layout."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from dskd_ds.errors import InputError
from dskd_ds.files.atomic import write_json
from dskd_ds.files.manifest import (
    MANIFEST_FILE,
    FileEntry,
    file_problem,
    parse_manifest,
    refuse_unlisted_files,
    write_manifest,
)
from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.runtime.devices import resolve_dtype
from dskd_ds.spec import RunSpec
from dskd_ds.student.checkpoint.deepspeed_files import DeepSpeedFiles
from dskd_ds.student.checkpoint.files import file_prefix
from dskd_ds.student.checkpoint.folders import LAYOUT, checkpoint_dir, complete_tags, remove
from dskd_ds.student.checkpoint.slice_files import write_slices
from dskd_ds.student.export import empty_model
from dskd_ds.student.model import freeze
from dskd_ds.student.repair.result import PREFIX, distilled_init
from dskd_ds.student.resume_settings import refuse_another_run
from dskd_ds.student.run_lock import RunLock

CONVERTED, ORIGINAL = "converted-", "deepspeed-"
"""How the folder names of a checkpoint that is being made, and of its original, begin."""
SENSE_MAP = "objective.sense_map"


def convert_checkpoint(spec: RunSpec, models: RunModels, tag: str | None = None) -> Path:
    """Convert a checkpoint of DeepSpeed, in one process, and return its folder.

    tag: its folder name; None: the newest. What it was made from stays, as `deepspeed-TAG`.
    Raises InputError if there is none, if the spec is that of another run, if a launch uses the run
    directory, or if a file is damaged, not listed, or has more than tensors and plain values.
    """
    lock = RunLock(Path(spec.run_dir))
    lock.acquire()
    try:
        _finish_interrupted(checkpoint_dir(spec))
        refuse_another_run(spec)
        source = checkpoint_dir(spec) / _old_tag(spec, tag)
        facts, files = _whole(source)
        target = source.with_name(f"{CONVERTED}{source.name}")
        remove(target)
        target.mkdir()
        _write(spec, models, DeepSpeedFiles(source, list(files)), facts, target)
        source.rename(source.with_name(f"{ORIGINAL}{source.name}"))
        target.rename(source)
        return source
    finally:
        lock.release()


def _finish_interrupted(folder: Path) -> None:
    """Rename what a conversion left that was killed between its two renames."""
    for manifest in folder.glob(f"{CONVERTED}step-*/{MANIFEST_FILE}"):
        converted = manifest.parent
        tag = converted.name.removeprefix(CONVERTED)
        if not (folder / tag).exists():
            converted.rename(folder / tag)


def _old_tag(spec: RunSpec, tag: str | None) -> str:
    """Return the name of the checkpoint to convert. Raises InputError if there is none."""
    folder = checkpoint_dir(spec)
    old = [name for name in complete_tags(spec) if _layout(folder / name) == 1]
    if not old or (tag is not None and tag not in old):
        what = "checkpoint" if tag is None else tag
        raise InputError(
            f"{folder}: there is no {what} of an earlier version to convert.\n"
            f"  of earlier versions: {', '.join(old) or 'none'};"
            f" complete: {', '.join(complete_tags(spec)) or 'none'}."
        )
    return tag or old[-1]


def _layout(checkpoint: Path) -> int:
    facts, _ = parse_manifest(checkpoint)
    return int(facts.get("layout", 1))


def _whole(checkpoint: Path) -> tuple[dict[str, Any], dict[str, FileEntry]]:
    """Return facts and files of a checkpoint after comparing them with its manifest."""
    facts, files = parse_manifest(checkpoint)
    refuse_unlisted_files(checkpoint, files)
    problems = [file_problem(checkpoint / name, expected) for name, expected in files.items()]
    damaged = [problem for problem in problems if problem]
    if damaged:
        raise InputError(f"{damaged[0]}.\n  restore the file, or convert another checkpoint.")
    return facts, files


def _write(
    spec: RunSpec, models: RunModels, source: DeepSpeedFiles, facts: dict[str, Any], target: Path
) -> None:
    """Write a checkpoint of the present layout, one rank after the other; its manifest last."""
    init = distilled_init(spec, models)
    adam_step, scaler = 0, {}
    for saved in source.ranks(trained_names(spec, init, source)):
        write_slices(target, file_prefix(saved.rank), saved.slices)
        adam_step, scaler = saved.adam_step, saved.scaler
    num_students = int(facts["num_students"])
    state = {"engine": {"counters": source.counters(), "loss_scaler": scaler}}
    for rank in range(num_students):
        write_json(target / f"{file_prefix(rank)}.json", state)
    new_facts = {
        "layout": LAYOUT,
        "step": int(facts["step"]),
        "tokens": int(facts["tokens"]),
        "adam_step": adam_step,
        "num_students": num_students,
        "init": init.fingerprint,
        "dtype": str(resolve_dtype(init.dtype)).removeprefix("torch."),
    }
    write_manifest(target, new_facts)
    if not spec.student.trains_outer:
        print(
            f"{target.name}: frozen weights are not part of a checkpoint; they come from"
            f" {init.path}, which must be the model that this run was started from.",
            file=sys.stderr,
        )


def trained_names(spec: RunSpec, init: NamedModel, source: DeepSpeedFiles) -> list[str]:
    """Return the names of the trained parameters in the order in which DeepSpeed got them."""
    model = empty_model(init)
    freeze(model, spec.student)
    names = [
        f"{PREFIX}{name}" for name, parameter in model.named_parameters() if parameter.requires_grad
    ]
    return [*names, SENSE_MAP] if source.has_parameter(SENSE_MAP) else names

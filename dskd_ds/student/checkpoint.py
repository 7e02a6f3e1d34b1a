"""Saves and loads checkpoints that are complete or ignored.

A checkpoint is complete when it has a manifest, which rank 0 writes last and by rename, with the
size and hash of every file. DeepSpeed unpickles its files (docs/deepspeed.md, "Checkpoints"), so
no file is loaded before its hash has been compared with the manifest.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import deepspeed.comm as dist
import torch

from dskd_ds.errors import InputError, SaveError
from dskd_ds.files.manifest import MANIFEST_FILE, read_manifest, write_manifest
from dskd_ds.runtime.devices import local_device
from dskd_ds.spec import SPEC_FILE, RunSpec, load_spec
from dskd_ds.student.deepspeed_engine import Engine
from dskd_ds.student.writes import Writes

FOLDER = "checkpoints"

MAY_CHANGE_ON_RESUME: dict[str, bool | set[str]] = {
    "run_dir": True,
    "monitor": True,
    "checkpoint": True,
    "link": True,
    "eval": True,
    "senses": {"local_dir", "collection_dir", "retrieve_on"},
    "train": {"num_steps", "num_epochs"},
    "student": {"activation_checkpointing", "compile"},
    "teacher": {"compile"},
}
"""Sections and keys that may differ when a run is resumed.

Another length stretches the learning rate's schedule for the remaining steps. Compiling layers or
recomputing activations changes results by rounding only.
"""


def checkpoint_dir(spec: RunSpec) -> Path:
    """Return the folder of a run's checkpoints."""
    return Path(spec.run_dir) / FOLDER


def save(engine: Engine, spec: RunSpec, step: int, tokens: int) -> None:
    """Save a checkpoint after `step` steps, unless a complete one exists. A collective call.

    Deletes all but the newest `[checkpoint] keep` checkpoints. tokens: read by all ranks so far.
    Raises SaveError on all ranks if one of them cannot write; the earlier checkpoints stay.
    """
    folder = checkpoint_dir(spec)
    tag = f"step-{step:08d}"
    if _broadcast_is_complete(spec, tag):
        return
    try:
        _write(engine, spec, tag, {"step": step, "tokens": tokens})
    except SaveError:
        if dist.get_rank() == 0:  # what was written would keep a full disk full
            shutil.rmtree(folder / tag, ignore_errors=True)
        raise
    if dist.get_rank() == 0:
        for old in complete_tags(spec)[: -spec.checkpoint.keep]:
            _remove_or_warn(folder / old)
    dist.barrier()


def _write(engine: Engine, spec: RunSpec, tag: str, progress: dict[str, int]) -> None:
    """Write a checkpoint and its manifest. A collective call. Raises SaveError on all ranks."""
    folder = checkpoint_dir(spec)
    writes = Writes(folder / tag)
    if dist.get_rank() == 0:
        with writes.attempt():
            _remove(folder / tag)  # what an interrupted save left
            folder.mkdir(parents=True, exist_ok=True)
    writes.raise_on_every_rank()
    with writes.attempt_inside(engine):
        engine.save_checkpoint(str(folder), tag=tag, client_state=progress, save_latest=False)
    writes.raise_on_every_rank()
    if dist.get_rank() == 0:
        with writes.attempt():
            write_manifest(folder / tag, {**progress, "num_students": spec.topology.num_students})
    writes.raise_on_every_rank()


def _broadcast_is_complete(spec: RunSpec, tag: str) -> bool:
    """Return whether rank 0 finds the complete checkpoint. A collective call.

    Rank 0 decides for all ranks, because another node may see new files of a shared folder late.
    """
    is_complete = dist.get_rank() == 0 and tag in complete_tags(spec)
    found = torch.tensor([int(is_complete)], device=local_device())
    dist.broadcast(found, 0)
    return bool(found)


def _remove(checkpoint: Path) -> None:
    """Delete a checkpoint if it exists; its manifest first, so that the rest is not complete."""
    (checkpoint / MANIFEST_FILE).unlink(missing_ok=True)
    if checkpoint.exists():
        shutil.rmtree(checkpoint)


def _remove_or_warn(checkpoint: Path) -> None:
    """Delete an old checkpoint; print a warning if that fails, because the new one is complete."""
    try:
        _remove(checkpoint)
    except OSError as error:
        print(f"{checkpoint}: this old checkpoint cannot be deleted: {error}", file=sys.stderr)


def complete_tags(spec: RunSpec) -> list[str]:
    """Return the folder names of the checkpoints that have a manifest, oldest first."""
    return sorted(path.parent.name for path in checkpoint_dir(spec).glob(f"step-*/{MANIFEST_FILE}"))


def refuse_another_run(spec: RunSpec) -> None:
    """Raise InputError if the run directory has checkpoints of a run with other settings."""
    path = Path(spec.run_dir) / SPEC_FILE
    if not path.is_file() or not complete_tags(spec):
        return
    before = _fixed_settings(load_spec(path))
    now = _fixed_settings(spec)
    changed = [name for name in now if now[name] != before[name]]
    if changed:
        raise InputError(
            f"{path}: this run was started with other values of {', '.join(changed)}.\n"
            "  set another run_dir, or delete this one to start again."
        )


def _fixed_settings(spec: RunSpec) -> dict[str, Any]:
    """Return `key` or `section.key` -> value, for every setting that a resumed run must keep."""
    settings: dict[str, Any] = {}
    for name, value in spec.model_dump(mode="json", exclude=MAY_CHANGE_ON_RESUME).items():
        if isinstance(value, dict):
            settings |= {f"{name}.{key}": key_value for key, key_value in value.items()}
        else:
            settings[name] = value
    return settings


def resume(engine: Engine, spec: RunSpec) -> tuple[int, int]:
    """Load the newest complete checkpoint, if any. A collective call.

    Returns the steps and tokens done; (0, 0) for a new run. Raises InputError if the checkpoint's
    files differ from its manifest, or if it was saved with another number of students.
    """
    tags = complete_tags(spec)
    if not tags:
        return 0, 0
    folder = checkpoint_dir(spec)
    newest = folder / tags[-1]
    facts = read_manifest(newest)
    # Each rank's file holds that rank's share of weights and moments; another number of ranks would
    # need a conversion (docs/deepspeed.md, "Checkpoints").
    num_students = facts["num_students"]
    if num_students != spec.topology.num_students:
        raise InputError(
            f"{newest}: it was saved by {num_students} students, but [topology] num_students ="
            f" {spec.topology.num_students}.\n"
            f"  resume with {num_students} students, or export the checkpoint and start a new run"
            " from it."
        )
    loaded, _ = engine.load_checkpoint(str(folder), tag=tags[-1])
    assert loaded is not None, f"DeepSpeed found nothing in {newest}"
    return int(facts["step"]), int(facts["tokens"])

"""Checkpoints that are whole or not there: DeepSpeed's files, then a manifest with every file's size and hash, by rename.

DeepSpeed reads its files with an unpickler (docs/deepspeed.md, "Checkpoints"), so nothing is read whose hash our manifest does not vouch for.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import deepspeed.comm as dist
import torch

from dskd_ds.errors import InputError
from dskd_ds.files.manifest import MANIFEST_FILE, read_manifest, write_manifest
from dskd_ds.runtime.devices import local_device
from dskd_ds.spec import SPEC_FILE, RunSpec, load_spec

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
"""Sections and keys that a resumed run may have different from the run it goes on with. Another length stretches the learning rate's
schedule from then on; computing layers in another way changes no more than rounding."""


def checkpoint_dir(spec: RunSpec) -> Path:
    """Where a run's checkpoints are."""
    return Path(spec.run_dir) / FOLDER


def save(engine: Any, spec: RunSpec, step: int, tokens: int) -> None:
    """Save after `step` steps, unless that was done already; all ranks call it. Keeps the newest `checkpoint.keep`."""
    folder = checkpoint_dir(spec)
    tag = f"step-{step:08d}"
    if _is_complete(spec, tag):
        return
    if dist.get_rank() == 0:
        _remove(folder / tag)  # what a save left that did not come to its end
    dist.barrier()
    engine.save_checkpoint(
        str(folder), tag=tag, client_state={"step": step, "tokens": tokens}, save_latest=False
    )
    dist.barrier()
    if dist.get_rank() == 0:
        write_manifest(
            folder / tag,
            {"step": step, "tokens": tokens, "num_students": spec.topology.num_students},
        )
        for old in complete_tags(spec)[: -spec.checkpoint.keep]:
            _remove(folder / old)
    dist.barrier()


def _is_complete(spec: RunSpec, tag: str) -> bool:
    """Whether a checkpoint is there. Rank 0 looks for all: a shared folder may look different from another node for a while."""
    found = torch.tensor(
        [int(dist.get_rank() == 0 and tag in complete_tags(spec))], device=local_device()
    )
    dist.broadcast(found, 0)
    return bool(found)


def _remove(checkpoint: Path) -> None:
    """Delete a checkpoint, if it is there. First its manifest: a half-deleted one must not look whole."""
    (checkpoint / MANIFEST_FILE).unlink(missing_ok=True)
    if checkpoint.exists():
        shutil.rmtree(checkpoint)


def complete_tags(spec: RunSpec) -> list[str]:
    """Tags that have a manifest, oldest first."""
    return sorted(path.parent.name for path in checkpoint_dir(spec).glob(f"step-*/{MANIFEST_FILE}"))


def refuse_another_run(spec: RunSpec) -> None:
    """Raise InputError if the run directory has checkpoints that were made with other settings than these."""
    path = Path(spec.run_dir) / SPEC_FILE
    if not path.is_file() or not complete_tags(spec):
        return
    before, now = _settings(load_spec(path)), _settings(spec)
    changed = [name for name in now if now[name] != before[name]]
    if changed:
        raise InputError(
            f"{path}: this run was started with other values of {', '.join(changed)}.\n"
            "  give the run another run_dir, or delete this one to start anew."
        )


def _settings(spec: RunSpec) -> dict[str, Any]:
    """`key` or `section.key` -> value, of all that must stay."""
    flat: dict[str, Any] = {}
    for name, value in spec.model_dump(mode="json", exclude=MAY_CHANGE_ON_RESUME).items():
        flat |= (
            {f"{name}.{key}": of_key for key, of_key in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
    return flat


def resume(engine: Any, spec: RunSpec) -> tuple[int, int]:
    """Load the newest complete checkpoint, if there is one. Returns steps and tokens done: (0, 0) for a new run.

    Raises InputError if its files differ from its manifest, or another number of students wrote it.
    """
    tags = complete_tags(spec)
    if not tags:
        return 0, 0
    folder = checkpoint_dir(spec)
    facts = read_manifest(folder / tags[-1])
    if facts["num_students"] != spec.topology.num_students:
        raise InputError(
            f"{folder / tags[-1]}: {facts['num_students']} students wrote it, [topology] num_students is "
            f"{spec.topology.num_students}.\n  go on with {facts['num_students']}, or export it and start a new run from it."
        )
    loaded, _ = engine.load_checkpoint(str(folder), tag=tags[-1])
    assert loaded is not None, f"DeepSpeed found nothing in {folder / tags[-1]}"
    return int(facts["step"]), int(facts["tokens"])

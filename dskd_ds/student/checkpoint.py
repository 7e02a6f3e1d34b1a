"""Checkpoints that are whole or not there: DeepSpeed's files, then a manifest with every file's size and hash, by rename.

DeepSpeed reads its files with an unpickler (DEEPSPEED.md), so nothing is read whose hash our manifest does not vouch for.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import deepspeed.comm as dist

from dskd_ds.errors import InputError
from dskd_ds.manifest import MANIFEST_FILE, read_manifest, write_manifest
from dskd_ds.spec import RunSpec

FOLDER = "checkpoints"


def checkpoint_dir(spec: RunSpec) -> Path:
    """Where a run's checkpoints are."""
    return Path(spec.run_dir) / FOLDER


def save(engine: Any, spec: RunSpec, step: int, tokens: int) -> None:
    """Save after `step` steps; all ranks call it. Keeps the newest `checkpoint.keep`."""
    folder = checkpoint_dir(spec)
    tag = f"step-{step:08d}"
    if dist.get_rank() == 0:
        shutil.rmtree(folder / tag, ignore_errors=True)
    dist.barrier()
    engine.save_checkpoint(str(folder), tag=tag, client_state={"step": step, "tokens": tokens}, save_latest=False)
    dist.barrier()
    if dist.get_rank() == 0:
        write_manifest(folder / tag, {"step": step, "tokens": tokens, "num_students": spec.topology.num_students})
        for old in complete_tags(spec)[: -spec.checkpoint.keep]:
            (folder / old / MANIFEST_FILE).unlink()  # first the manifest: a half-deleted checkpoint must not look whole
            shutil.rmtree(folder / old)
    dist.barrier()


def complete_tags(spec: RunSpec) -> list[str]:
    """Tags that have a manifest, oldest first."""
    return sorted(path.parent.name for path in checkpoint_dir(spec).glob(f"step-*/{MANIFEST_FILE}"))


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
        raise InputError(f"{folder / tags[-1]}: {facts['num_students']} students wrote it, [topology] num_students is "
                         f"{spec.topology.num_students}.\n  go on with {facts['num_students']}, or export it and start a new run from it.")
    loaded, _ = engine.load_checkpoint(str(folder), tag=tags[-1])
    assert loaded is not None, f"DeepSpeed found nothing in {folder / tags[-1]}"
    return int(facts["step"]), int(facts["tokens"])

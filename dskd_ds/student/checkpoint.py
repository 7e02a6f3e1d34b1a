"""Saves and loads checkpoints that are complete or ignored.

A checkpoint is complete when it has a manifest, which rank 0 writes last and by rename, with the
size and hash of every file. DeepSpeed unpickles its files (docs/deepspeed.md, "Checkpoints"), so
no file is loaded before its hash has been compared with the manifest, and no checkpoint with a file
that the manifest does not list.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import deepspeed.comm as dist

from dskd_ds.errors import InputError, SaveError
from dskd_ds.files.manifest import (
    MANIFEST_FILE,
    FileEntry,
    refuse_unlisted_files,
    store_manifest,
)
from dskd_ds.spec import SPEC_FILE, RunSpec, load_spec
from dskd_ds.spec.resume import changes_on_resume
from dskd_ds.student.checkpoint_files import (
    all_gather_entries,
    all_gather_problem,
    broadcast_manifest,
    hash_own_files,
)
from dskd_ds.student.collectives import broadcast_from_rank_0, run_on_rank_0
from dskd_ds.student.deepspeed_engine import Engine
from dskd_ds.student.writes import Writes

FOLDER = "checkpoints"
DAMAGED = "damaged-"
"""What the folder name of a damaged checkpoint begins with after a resume has passed over it."""


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
    # Rank 0 decides for all ranks, because another node may see new files of a shared folder late.
    if broadcast_from_rank_0(tag in complete_tags(spec)):
        return
    try:
        _write(engine, spec, tag, {"step": step, "tokens": tokens})
    except SaveError:
        if dist.get_rank() == 0:  # what was written would keep a full disk full
            shutil.rmtree(folder / tag, ignore_errors=True)
        raise
    run_on_rank_0(_remove_oldest, spec)


def _write(engine: Engine, spec: RunSpec, tag: str, progress: dict[str, int]) -> None:
    """Write a checkpoint and its manifest. A collective call. Raises SaveError on all ranks."""
    folder = checkpoint_dir(spec)
    writes = Writes(folder / tag)
    if dist.get_rank() == 0:
        with writes.attempt():
            _remove(folder / tag)  # what an interrupted save left
            folder.mkdir(parents=True, exist_ok=True)
    writes.raise_on_every_rank()
    own_files: dict[str, FileEntry] = {}
    with writes.attempt_inside(engine):
        engine.save_checkpoint(str(folder), tag=tag, client_state=progress, save_latest=False)
    with writes.attempt():
        own_files = hash_own_files(folder / tag)
    writes.raise_on_every_rank()
    files = all_gather_entries(own_files)
    if dist.get_rank() == 0:
        facts = {**progress, "num_students": spec.topology.num_students}
        with writes.attempt():
            store_manifest(folder / tag, facts, files)
    writes.raise_on_every_rank()


def _remove_oldest(spec: RunSpec) -> None:
    """Delete all but the newest `[checkpoint] keep` checkpoints."""
    for old in complete_tags(spec)[: -spec.checkpoint.keep]:
        _remove_or_warn(checkpoint_dir(spec) / old)


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
    """Raise InputError if the run directory has checkpoints of a run with other settings.

    Prints a warning to stderr if a setting changed that may, but that changes results by rounding.
    """
    path = Path(spec.run_dir) / SPEC_FILE
    if not path.is_file() or not complete_tags(spec):
        return
    changes = changes_on_resume(load_spec(path), spec)
    refused = [change.key for change in changes if not change.mark.may_change]
    if refused:
        raise InputError(
            f"{path}: this run was started with other values of {', '.join(refused)}.\n"
            "  set another run_dir, or delete this one to start again."
        )
    for change in changes:
        if change.mark.effect:
            print(
                f"{path}: {change.key} was {change.before} and is now {change.now}:"
                f" {change.mark.effect}.",
                file=sys.stderr,
            )


def resume(engine: Engine, spec: RunSpec, before: int | None = None) -> tuple[int, int]:
    """Load the newest checkpoint whose files are whole, if any. A collective call.

    before: only checkpoints with fewer steps than this are looked at.

    Returns the steps and tokens done; (0, 0) for a new run. A damaged checkpoint is passed over
    with a warning on stderr. Raises InputError if all checkpoints are damaged, if one has a file
    that its manifest does not list, or if it was saved with another number of students.
    """
    folder = checkpoint_dir(spec)
    damaged: dict[str, str] = {}  # the folder name of each -> its problem
    tags: list[str] = broadcast_from_rank_0(complete_tags(spec))
    if before is not None:
        tags = [tag for tag in tags if int(tag.removeprefix("step-")) < before]
    for tag in reversed(tags):
        manifest = broadcast_manifest(folder / tag)
        facts, files, problem = manifest["facts"], manifest["files"], manifest["problem"]
        if problem is None:
            run_on_rank_0(_refuse_another_world, folder / tag, facts, spec)
            run_on_rank_0(refuse_unlisted_files, folder / tag, files)
            problem = all_gather_problem(folder / tag, files)
        if problem is None:
            run_on_rank_0(_set_aside, folder, damaged, tag)
            loaded, _ = engine.load_checkpoint(str(folder), tag=tag)
            assert loaded is not None, f"DeepSpeed found nothing in {folder / tag}"
            return int(facts["step"]), int(facts["tokens"])
        damaged[tag] = problem
    run_on_rank_0(_refuse_damaged, folder, damaged)
    return 0, 0


def _refuse_another_world(checkpoint: Path, facts: dict[str, Any], spec: RunSpec) -> None:
    """Raise InputError if a checkpoint was saved with another number of students."""
    # Each rank's file holds that rank's share of weights and moments; another number of ranks would
    # need a conversion (docs/deepspeed.md, "Checkpoints").
    num_students = facts.get("num_students")
    if num_students != spec.topology.num_students:
        raise InputError(
            f"{checkpoint}: it was saved by {num_students} students, but [topology] num_students ="
            f" {spec.topology.num_students}.\n"
            f"  resume with {num_students} students, or export the checkpoint and start a new run"
            " from it."
        )


def _set_aside(folder: Path, damaged: dict[str, str], whole: str) -> None:
    """Rename damaged checkpoints, and print why to stderr.

    Otherwise the run would not save again at their steps, because a complete checkpoint exists.
    """
    for tag, problem in damaged.items():
        _remove(folder / f"{DAMAGED}{tag}")
        (folder / tag).rename(folder / f"{DAMAGED}{tag}")
        print(
            f"{problem}.\n"
            f"  {tag} is damaged, so the run continues from {whole}; the damaged one is kept as"
            f" {DAMAGED}{tag} until you delete it.",
            file=sys.stderr,
        )


def _refuse_damaged(folder: Path, damaged: dict[str, str]) -> None:
    """Raise InputError if there are checkpoints but all are damaged."""
    if damaged:
        problems = "".join(f"{problem}.\n" for problem in damaged.values())
        raise InputError(
            f"{problems}"
            f"  no checkpoint in {folder} is whole: restore these files, or delete the folder to"
            " start again from step 0."
        )

"""The folders of a run's checkpoints: their names, which are complete, and how one is deleted."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dskd_ds.errors import InputError
from dskd_ds.files.manifest import MANIFEST_FILE
from dskd_ds.observe.best_checkpoint import best_checkpoint
from dskd_ds.spec import SPEC_FILE, RunSpec

FOLDER = "checkpoints"
DAMAGED = "damaged-"
"""What the folder name of a damaged checkpoint begins with after a resume has passed over it."""
ABANDONED = "abandoned-"
"""What the folder name of a checkpoint begins with after a rollback has gone back behind it."""
LAYOUT = 2
"""Version of a checkpoint's files; those of version 1 were written by DeepSpeed."""


def checkpoint_dir(spec: RunSpec) -> Path:
    """Return the folder of a run's checkpoints."""
    return Path(spec.run_dir) / FOLDER


def tag_of(step: int) -> str:
    """Return the folder name of the checkpoint after `step` steps."""
    return f"step-{step:08d}"


def complete_tags(spec: RunSpec) -> list[str]:
    """Return the folder names of the checkpoints that have a manifest, oldest first."""
    return sorted(path.parent.name for path in checkpoint_dir(spec).glob(f"step-*/{MANIFEST_FILE}"))


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint if it exists; its manifest first, so that the rest is not complete."""
    (checkpoint / MANIFEST_FILE).unlink(missing_ok=True)
    if checkpoint.exists():
        shutil.rmtree(checkpoint)


def oldest(spec: RunSpec) -> list[Path]:
    """Return all but the newest `[checkpoint] keep` checkpoints and, with `keep_best`, the best."""
    best = best_checkpoint(checkpoint_dir(spec)) if spec.checkpoint.keep_best else None
    old_tags = complete_tags(spec)[: -spec.checkpoint.keep]
    return [checkpoint_dir(spec) / tag for tag in old_tags if best is None or tag != best.tag]


def remove_all(checkpoints: Sequence[Path]) -> None:
    """Delete these checkpoints. Prints a warning if one cannot be deleted."""
    for checkpoint in checkpoints:
        _remove_or_warn(checkpoint)


def remove_incomplete(spec: RunSpec) -> None:
    """Delete what saves left that were killed, because the run need not save at these steps again.

    Prints a warning if that fails. No save may be in progress.
    """
    complete = complete_tags(spec)
    for path in sorted(checkpoint_dir(spec).glob("step-*")):
        if path.name not in complete:
            _remove_or_warn(path)


def _remove_or_warn(checkpoint: Path) -> None:
    try:
        remove(checkpoint)
    except OSError as error:
        print(f"{checkpoint}: it is not needed but cannot be deleted: {error}", file=sys.stderr)


def set_aside(folder: Path, damaged: dict[str, str], whole: str) -> None:
    """Rename damaged checkpoints, and print why to stderr. damaged: folder name -> problem.

    Otherwise the run would not save again at their steps, because a complete checkpoint exists.
    """
    for tag, problem in damaged.items():
        _rename(folder / tag, DAMAGED)
        print(
            f"{problem}.\n"
            f"  {tag} is damaged, so the run continues from {whole}; the damaged one is kept as"
            f" {DAMAGED}{tag} until you delete it.",
            file=sys.stderr,
        )


def abandon_after(spec: RunSpec, tag: str) -> None:
    """Rename the complete checkpoints after `tag`, and say so on stderr.

    A resume, a further rollback or `[checkpoint] keep` would otherwise prefer them to `tag`.
    """
    folder = checkpoint_dir(spec)
    for later in complete_tags(spec):
        if later > tag:
            _rename(folder / later, ABANDONED)
            print(
                f"{later}: its weights led to skipped steps; it is kept as {ABANDONED}{later} until"
                " you delete it.",
                file=sys.stderr,
            )


def _rename(checkpoint: Path, beginning: str) -> None:
    """Let the folder name of a checkpoint begin with this; an earlier one of the name goes."""
    renamed = checkpoint.with_name(f"{beginning}{checkpoint.name}")
    remove(renamed)
    checkpoint.rename(renamed)


def refuse_damaged(folder: Path, damaged: dict[str, str]) -> None:
    """Raise InputError if there are checkpoints but all are damaged."""
    if damaged:
        problems = "".join(f"{problem}.\n" for problem in damaged.values())
        raise InputError(
            f"{problems}"
            f"  no checkpoint in {folder} is whole: restore these files, or delete the folder to"
            " start again from step 0."
        )


def refuse_other_layout(checkpoint: Path, facts: dict[str, Any]) -> None:
    """Raise InputError if a checkpoint's files are not those that this version reads."""
    found = facts.get("layout", 1)
    if found == LAYOUT:
        return
    if found == 1:
        raise InputError(
            f"{checkpoint}: its files have layout 1 (DeepSpeed's own), and this version reads"
            f" layout {LAYOUT} only.\n"
            f"  convert it: dskd checkpoint convert {checkpoint.parent.parent / SPEC_FILE}"
            f" --tag {checkpoint.name}"
        )
    raise InputError(
        f"{checkpoint}: its files have layout {found}, and this version reads layout {LAYOUT}"
        " only.\n"
        "  use the version of dskd-ds that wrote it, or set another run_dir to start again."
    )


def refuse_other_student(checkpoint: Path, facts: dict[str, Any], init_fingerprint: str) -> None:
    """Raise InputError if a checkpoint's training started from other weights.

    Frozen parameters are not in a checkpoint; they come from the model that training starts from.
    """
    found = facts.get("init")
    if found != init_fingerprint:
        raise InputError(
            f"{checkpoint}: its training started from a student with fingerprint {found}, but this"
            f" run's initial student has {init_fingerprint}.\n"
            "  restore student_init/ of the run directory (or [student] model) as it was, or set"
            " another run_dir."
        )

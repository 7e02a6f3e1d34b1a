"""How far the checkpoints in a run directory go: those of the training, and those of the repair."""

from __future__ import annotations

from pathlib import Path

from dskd_ds.files.manifest import MANIFEST_FILE
from dskd_ds.observe.run_files import REPAIR_FOLDER, REPAIRED_FOLDER


def newest_step(run_dir: Path) -> int:
    """Return the step of the newest complete checkpoint of the training; 0 if there is none."""
    return _newest(run_dir)


def newest_repair_step(run_dir: Path) -> int | None:
    """Return the step of the repair's newest complete checkpoint; 0 if there is none.

    None if the repair is done: it then has no checkpoints any more.
    """
    if (run_dir / REPAIRED_FOLDER).is_dir():
        return None
    return _newest(run_dir / REPAIR_FOLDER)


def _newest(folder: Path) -> int:
    manifests = folder.glob(f"checkpoints/step-*/{MANIFEST_FILE}")
    steps = [path.parent.name.removeprefix("step-") for path in manifests]
    # A user may have put other folders there, such as step-100-copy.
    return max((int(step) for step in steps if step.isdecimal()), default=0)

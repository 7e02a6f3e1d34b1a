"""Shares the cut of the student between the runs of a study that cut the same one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from dskd_ds.files.links import link_folder
from dskd_ds.student.depth import INIT_FOLDER
from dskd_ds.study.runs import Run

CUTS = "cuts"


def take_shared_cut(folder: Path, run: Run) -> None:
    """Link the study's cut of the student into a run directory, if there is one."""
    own = Path(run.spec.run_dir) / INIT_FOLDER
    if run.cut_key is None or own.exists():
        return
    shared = folder / CUTS / run.cut_key
    if shared.is_dir():
        own.parent.mkdir(parents=True, exist_ok=True)
        partial = own.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        link_folder(shared, partial)
        partial.rename(own)


def offer_cut(folder: Path, run: Run) -> None:
    """Link a run's cut into the study's folder, for the runs after it."""
    own = Path(run.spec.run_dir) / INIT_FOLDER
    if run.cut_key is None or not own.is_dir():
        return
    shared = folder / CUTS / run.cut_key
    if shared.is_dir():
        return
    shared.parent.mkdir(parents=True, exist_ok=True)
    partial = shared.with_suffix(f".{os.getpid()}.{run.name}")
    link_folder(own, partial)
    try:
        partial.rename(shared)
    except OSError:  # another run was first
        shutil.rmtree(partial)

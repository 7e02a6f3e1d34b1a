"""Removes node-local copies of dictionaries that nobody uses any more.

A copy is removed when another one is made beside it, if no process of the node uses it and none has
used it for a week. Every process that uses a copy holds a shared lock on the file NAME.used beside
it until it ends, however it ends, and sets that file's time. So a copy that was made ahead of a job
is kept for a week too.

Earlier versions kept copies directly in [senses] local_dir, as dskd-<user id>-senses-<digest>. They
are removed when they were made more than a week ago.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time
from pathlib import Path

from filelock import FileLock, Timeout

UNUSED_SECONDS = 7 * 24 * 3600.0
"""How long a copy must not have been used before it is removed."""

_locks_of_this_process: list[int] = []
"""Open files whose locks say that this process uses copies; the kernel closes them at its end."""


def note_use(copy: Path) -> None:
    """Say that this process uses a copy until it ends. Call it under the copy's lock.

    Raises OSError if the file of the lock cannot be opened.
    """
    descriptor = os.open(_used_file(copy), os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    os.utime(descriptor)
    _locks_of_this_process.append(descriptor)


def remove_old_copies(folder: Path, kept: Path) -> list[Path]:
    """Remove this user's copies that nobody uses, and return them.

    folder: the user's own folder in local_dir (replicate.py). kept: the copy that was just made.
    """
    own_copies = [path for path in folder.glob("senses-*") if path.is_dir() and path != kept]
    removed = [copy for copy in own_copies if _remove_if_unused(copy)]
    for copy in folder.parent.glob(f"dskd-{os.getuid()}-senses-*"):
        is_own_folder = copy.is_dir() and not copy.is_symlink()
        if is_own_folder and copy.stat().st_uid == os.getuid() and _age(copy) > UNUSED_SECONDS:
            shutil.rmtree(copy, ignore_errors=True)
            removed.append(copy)
    if removed:
        names = ", ".join(path.name for path in removed)
        print(f"{folder}: removed copies that were not used for a week: {names}", file=sys.stderr)
    return removed


def _remove_if_unused(copy: Path) -> bool:
    """Remove a copy unless it is used or young; returns whether it was removed."""
    used = _used_file(copy)
    last_use = used if used.is_file() else copy  # a process that was killed while it copied
    if _age(last_use) <= UNUSED_SECONDS:
        return False
    try:
        # No process makes or opens this copy meanwhile.
        with FileLock(f"{copy}.lock", timeout=0):
            descriptor = os.open(used, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(copy)
            finally:
                os.close(descriptor)
            used.unlink()
    except (Timeout, OSError):
        return False  # it is used, or cannot be removed: it stays
    return True


def _used_file(copy: Path) -> Path:
    return copy.with_name(f"{copy.name}.used")


def _age(path: Path) -> float:
    """Return the seconds since a file or folder was changed; 0 if it has just been removed."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0

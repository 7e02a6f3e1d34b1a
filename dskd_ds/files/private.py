"""Folders and files that nobody but their owner may use, also below a world-writable folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from dskd_ds.errors import InputError


def private_folder(folder: Path, close_if_open: bool = False) -> Path:
    """Create a folder with mode 0700 unless it exists, and return it.

    close_if_open: change the mode of a folder that is open to others, instead of refusing it. What
        the folder holds must then be checked one by one.
    Raises InputError if what is there is not a folder of this user, or is open to others.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        check_owner(folder)  # names a dangling symbolic link
        raise InputError(f"{folder}: this is not a folder.\n  delete it.") from None
    if close_if_open:
        check_owner(folder)
        folder.chmod(0o700)
    check_private(folder)
    return folder


def check_private(path: Path) -> None:
    """Raise InputError unless a file or folder is this user's own and closed to all others.

    A symbolic link is refused too: it can lead to something else at the next use.
    """
    check_owner(path)
    mode = stat.S_IMODE(path.lstat().st_mode)
    if mode & 0o077:
        wanted = "700" if path.is_dir() else "600"
        raise InputError(
            f"{path}: its mode is {mode:o}, so other users may have read or changed it.\n"
            f"  delete it, or chmod {wanted} it if you trust everyone on this machine."
        )


def check_owner(path: Path) -> None:
    """Raise InputError if a file or folder belongs to another user, or is a symbolic link."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise InputError(f"{path}: this is a symbolic link, which is not followed.\n  delete it.")
    if status.st_uid != os.getuid():
        raise InputError(
            f"{path}: it belongs to user {status.st_uid}, but this process runs as user "
            f"{os.getuid()}.\n"
            "  delete it, or use another folder."
        )

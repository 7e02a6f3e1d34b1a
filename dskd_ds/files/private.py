"""Folders and files that nobody but their owner may use, also below a world-writable folder."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from dskd_ds.errors import InputError

SHORT_FOLDER = Path("/tmp")
MAX_SOCKET_PATH_BYTES = 100
"""The path of a unix socket has at most 107 bytes on Linux; a suffix may be added."""


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


def private_socket_path(name: str) -> Path:
    """Return the path of a unix socket in a folder of this user that is closed to others.

    The folder is below TMPDIR, or below /tmp if TMPDIR is too long for the path of a unix socket.
    Raises InputError as `private_folder` does, OSError if the folder cannot be created.
    """
    path = _in_user_folder(Path(tempfile.gettempdir()), name)
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        path = _in_user_folder(SHORT_FOLDER, name)
    private_folder(path.parent)
    return path


def _in_user_folder(folder: Path, name: str) -> Path:
    """Return a path in this user's folder below `folder`."""
    return folder / f"dskd-{os.getuid()}" / name


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

"""Says what is wrong with a path that the user named for output."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dskd_ds.errors import InputError


@contextmanager
def writing_output(path: Path, option: str = "--output") -> Iterator[None]:
    """Raise InputError in place of an OSError of the block, which writes to `path`.

    option: what the user named it with. The block must not print: a closed pipe is an OSError too.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{option} {path}: it cannot be written: {_reason(error)}.\n"
            "  name another path, in a folder that exists and that you may write to."
        ) from None


def check_can_write(path: Path, option: str = "--output") -> None:
    """Raise InputError if no file can be written at `path`: call it before long work.

    option: what the user named it with.
    """
    with writing_output(path, option):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        # Rights alone do not tell whether a file system takes files.
        with tempfile.TemporaryFile(dir=path.parent):
            pass


def _reason(error: OSError) -> str:
    if isinstance(error, FileExistsError):  # only `mkdir` raises it: the rest replaces files
        return f"{error.filename} is not a folder"
    return error.strerror or str(error)

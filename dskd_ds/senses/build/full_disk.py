"""A full disk ends a build with one message that names the disk, because a user can help it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from dskd_ds.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def full_disk_as_input_error(path: Path, what: str, key: str) -> Iterator[None]:
    """Raise InputError in place of an error that says that the disk or the quota is full.

    what: is written below `path`. key: the field of [senses] that names the disk.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = _number_of(error)
        if number not in FULL:
            raise
        raise InputError(
            f"{path}: the {what} cannot be written: {os.strerror(number)}.\n"
            f"  make room, or name a larger disk in [senses] {key}; what was read is kept."
        ) from None


def _number_of(error: Exception) -> int:
    """Return the system's number of an error, 0 if it is none of FULL and has no other."""
    if isinstance(error, OSError):
        return error.errno or 0
    # safetensors has the system's number in its text only.
    return next((number for number in FULL if f"(os error {number})" in str(error)), 0)

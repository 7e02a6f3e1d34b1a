"""Writes files and folders that appear whole or not at all.

The content is written under another name beside the target (`NAME.partial`) and then renamed. So a
reader never sees a half-written file. A killed process leaves only a `.partial`, which the next
write to the same target replaces. Two processes must not write the same target at the same time.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_file(path: Path, sync: bool = False) -> Iterator[Path]:
    """Yield a path to write to; after the block the file there replaces `path`.

    If the block raises, `path` stays as it was.
    sync: flush the content to disk before the rename, so that it survives a crash of the machine.
    """
    partial = _partial_path(path)
    try:
        yield partial
        if sync:
            flush_to_disk(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes, sync: bool = False) -> None:
    """Replace the file `path` by `content`. sync: see `atomic_file`."""
    with atomic_file(path, sync) as partial:
        partial.write_bytes(content)


def write_text(path: Path, content: str, sync: bool = False) -> None:
    """Replace the file `path` by `content` in UTF-8. sync: see `atomic_file`."""
    write_bytes(path, content.encode(), sync)


def write_json(path: Path, value: object, sync: bool = False, indent: int | None = None) -> None:
    """Replace the file `path` by `value` as JSON. sync: see `atomic_file`."""
    write_text(path, json.dumps(value, indent=indent), sync)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; after the block it replaces `folder`.

    If the block raises, `folder` stays as it was.
    """
    partial = partial_folder(folder)
    try:
        yield partial
        replace_folder(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def flush_to_disk(path: Path) -> None:
    """Wait until the content of a file is on disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _partial_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


def partial_folder(folder: Path) -> Path:
    """Return an empty folder beside `folder`, to be filled and then given to `replace_folder`."""
    partial = _partial_path(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def replace_folder(partial: Path, folder: Path) -> None:
    """Rename a finished folder to `folder`, and delete the folder that had this name.

    The old folder is renamed before it is deleted: another process may have its files mapped, and
    NFS then cannot remove them at once.
    """
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)

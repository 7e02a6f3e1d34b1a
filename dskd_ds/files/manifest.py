"""Manifests: the sizes and SHA-256 digests of a folder's files, and facts about how it was made.

A manifest is written last, by rename. So a folder with a manifest is complete, and a file that
differs from the manifest is reported before anything reads it. A file that the manifest does not
list is reported too: a program that looks for files by a pattern would open it unchecked.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

from dskd_ds.errors import InputError
from dskd_ds.files.atomic import flush_to_disk, write_json
from dskd_ds.files.hashes import file_sha256

MANIFEST_FILE = "manifest.json"
CHECKED_FILE = "checked.json"
"""In a node's copy of a dictionary: sizes, modification times and inodes of its files when their
digests were compared. The manifest is older, so it does not list this file."""
UNFINISHED = (".lock", ".partial", ".old")
"""Endings of files and folders that locks and atomic writes leave beside finished ones."""
DIGEST = re.compile("[0-9a-f]{64}")


class FileEntry(TypedDict):
    """What a manifest records of one file."""

    bytes: int
    sha256: str


def describe_file(path: Path) -> FileEntry:
    """Flush a file to disk and return its manifest entry."""
    flush_to_disk(path)
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write the manifest of all files below `folder`, with these facts, and flush all to disk.

    The files are flushed before the manifest: a folder that has one is complete after a crash too.
    """
    names = file_names(folder)
    store_manifest(folder, facts, {name: describe_file(folder / name) for name in names})


def store_manifest(folder: Path, facts: dict[str, Any], files: dict[str, FileEntry]) -> None:
    """Write a manifest whose entries are known. The files must be on disk already."""
    write_json(folder / MANIFEST_FILE, {"facts": facts, "files": files}, sync=True, indent=1)


def file_names(folder: Path) -> list[str]:
    """Return the relative paths of the files that a manifest of `folder` must list, sorted.

    Left out: manifests, unfinished files, and subfolders with a manifest of their own. Symbolic
    links count as files and are not followed.
    """
    names: list[str] = []
    for parent, folders, files in os.walk(folder):
        below = Path(parent)
        links = [name for name in folders if (below / name).is_symlink()]
        folders[:] = [
            name
            for name in folders
            if not name.endswith(UNFINISHED) and not (below / name / MANIFEST_FILE).is_file()
        ]
        names += [
            str((below / name).relative_to(folder)) for name in (*files, *links) if _is_kept(name)
        ]
    return sorted(names)


def _is_kept(name: str) -> bool:
    """Return whether a file of this name belongs into a manifest."""
    # NFS renames a deleted file that is still open to .nfs...
    is_passing = name.startswith((MANIFEST_FILE, ".nfs")) or name.endswith(UNFINISHED)
    return not is_passing and name != CHECKED_FILE


def parse_manifest(folder: Path) -> tuple[dict[str, Any], dict[str, FileEntry]]:
    """Return the facts of a folder, and its files by relative path.

    Raises InputError if the manifest is missing or invalid, or names a file outside of the folder.
    """
    path = folder / MANIFEST_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        facts, files = content["facts"], content["files"]
        if not isinstance(facts, dict) or not isinstance(files, dict):
            raise TypeError("facts and files must be objects")
        for name, entry in files.items():
            _check_entry(name, entry)
    except FileNotFoundError:
        raise InputError(
            f"{folder}: it has no {MANIFEST_FILE}, so it is not complete.\n"
            "  delete it and make it again."
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: this is not a valid manifest ({error}).\n"
            "  delete the folder and make it again."
        ) from None
    return facts, files


def _check_entry(name: str, entry: FileEntry) -> None:
    """Raise ValueError, KeyError or TypeError if an entry is invalid or leaves the folder."""
    path = PurePosixPath(name)
    is_inside = not path.is_absolute() and ".." not in path.parts
    if not is_inside or str(path) != name or name in (".", MANIFEST_FILE) or "\0" in name:
        raise ValueError(f"{name!r} is not the path of a file inside of the folder")
    size, digest = entry["bytes"], entry["sha256"]
    if type(size) is not int or size < 0:
        raise ValueError(f"{name}: bytes is not a size")
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise ValueError(f"{name}: sha256 is not a digest")


def read_manifest(folder: Path, verify: bool = True) -> dict[str, Any]:
    """Return the facts of a folder after comparing its files with the manifest.

    verify: compare digests too; otherwise only names and sizes.
    Raises InputError that names the first file that differs or is not listed.
    """
    facts, files = parse_manifest(folder)
    refuse_unlisted_files(folder, files)
    for name, expected in files.items():
        problem = file_problem(folder / name, expected, verify)
        if problem:
            raise InputError(f"{problem}.\n  delete {folder} and make it again.")
    return facts


def refuse_unlisted_files(folder: Path, listed: Collection[str]) -> None:
    """Raise InputError that names the files below `folder` that its manifest does not list."""
    unlisted = [name for name in file_names(folder) if name not in listed]
    if not unlisted:
        return
    paths = ", ".join(str(folder / name) for name in unlisted[:5])
    more = f" and {len(unlisted) - 5} more" if len(unlisted) > 5 else ""
    raise InputError(
        f"{paths}{more}: not listed in {folder / MANIFEST_FILE}, so written by something else;"
        " such a file is not opened.\n"
        "  find out where it comes from, then move it away."
    )


def file_problem(path: Path, expected: FileEntry, verify: bool = True) -> str | None:
    """Return how a file differs from its entry, in a sentence without full stop, or None.

    verify: compare the digest too; otherwise only the size.
    """
    if not path.is_file():
        return f"{path}: it is missing"
    found = path.stat().st_size
    if found != expected["bytes"]:
        return f"{path}: it has {found} bytes, but {expected['bytes']} were written"
    if verify and file_sha256(path) != expected["sha256"]:
        return f"{path}: its content differs from the manifest"
    return None

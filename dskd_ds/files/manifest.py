"""Manifests: the sizes and SHA-256 digests of a folder's files, and facts about how it was made.

A manifest is written last, by rename. So a folder with a manifest is complete, and a file that
differs from the manifest is reported before anything reads it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypedDict

from dskd_ds.errors import InputError
from dskd_ds.files.atomic import flush_to_disk, write_json
from dskd_ds.files.hashes import file_sha256

MANIFEST_FILE = "manifest.json"


class FileEntry(TypedDict):
    """What a manifest records of one file."""

    bytes: int
    sha256: str


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write the manifest of all files below `folder`, with these facts, and flush all to disk.

    The files are flushed before the manifest: a folder that has one is complete after a crash too.
    """
    files: dict[str, FileEntry] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.startswith(MANIFEST_FILE):
            continue
        flush_to_disk(path)
        name = str(path.relative_to(folder))
        files[name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    write_json(folder / MANIFEST_FILE, {"facts": facts, "files": files}, sync=True, indent=1)


def parse_manifest(folder: Path) -> tuple[dict[str, Any], dict[str, FileEntry]]:
    """Return the facts of a folder, and its files by relative path.

    Raises InputError if the manifest is missing or invalid.
    """
    path = folder / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_text())
        return manifest["facts"], manifest["files"]
    except FileNotFoundError:
        raise InputError(
            f"{folder}: it has no {MANIFEST_FILE}, so it is not complete.\n"
            "  delete it and make it again."
        ) from None
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{path}: this is not a valid manifest ({error}).\n"
            "  delete the folder and make it again."
        ) from None


def read_manifest(folder: Path, verify: bool = True) -> dict[str, Any]:
    """Return the facts of a folder after comparing its files with the manifest.

    verify: compare digests too; otherwise only sizes.
    Raises InputError that names the first file that differs.
    """
    facts, files = parse_manifest(folder)
    for name, expected in files.items():
        _check_size(folder, name, expected["bytes"])
        if verify and file_sha256(folder / name) != expected["sha256"]:
            raise InputError(
                f"{folder / name}: its content differs from the manifest.\n"
                f"  delete {folder} and make it again."
            )
    return facts


def _check_size(folder: Path, name: str, num_bytes: int) -> None:
    """Raise InputError if a file is missing or has another size than num_bytes."""
    path = folder / name
    found = path.stat().st_size if path.is_file() else None
    if found == num_bytes:
        return
    if found is None:
        reason = "it is missing"
    else:
        reason = f"it has {found} bytes, but {num_bytes} were written"
    raise InputError(f"{path}: {reason}.\n  delete {folder} and make it again.")

"""Manifests: a folder's files with sizes and SHA-256, and what they were made from. Written last, by rename: whoever finds a
manifest finds the whole folder; whoever finds a file that differs from it is told so before anything reads the file."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from dskd_ds.errors import InputError
from dskd_ds.files.hashes import file_sha256

MANIFEST_FILE = "manifest.json"


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Record every file below `folder`, and some facts, on disk for good."""
    files = {}
    for path in sorted(
        p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(MANIFEST_FILE)
    ):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[str(path.relative_to(folder))] = {
            "bytes": path.stat().st_size,
            "sha256": file_sha256(path),
        }
    partial = folder / f"{MANIFEST_FILE}.partial"
    with partial.open("w") as file:
        json.dump({"facts": facts, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / MANIFEST_FILE)


def parse_manifest(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The facts of a folder, and its files: relative path -> `bytes` and `sha256`. Raises InputError if there is no manifest."""
    path = folder / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_text())
        return manifest["facts"], manifest["files"]
    except FileNotFoundError:
        raise InputError(
            f"{folder}: it has no {MANIFEST_FILE}, so it is not complete.\n  delete it and make it again."
        ) from None
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{path}: this is no manifest ({error}).\n  delete the folder and make it again."
        ) from None


def partial_folder(folder: Path) -> Path:
    """An empty folder beside `folder`, to be filled and then put in its place."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def replace_folder(partial: Path, folder: Path) -> None:
    """Put a finished folder in the place of another. The old one steps aside first: somebody may have its files mapped, and NFS then
    keeps them, so that it cannot be removed at once."""
    aside = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        folder.rename(aside)
    partial.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


def read_manifest(folder: Path, verify: bool = True) -> dict[str, Any]:
    """The facts of a folder, after its files were compared with what the manifest says.

    verify: also hash every file; without it only sizes are compared. Raises InputError that names the first file that differs.
    """
    facts, files = parse_manifest(folder)
    for name, expected in files.items():
        size = (folder / name).stat().st_size if (folder / name).is_file() else None
        if size != expected["bytes"]:
            found = (
                "is missing"
                if size is None
                else f"has {size} bytes, not the {expected['bytes']} that were written"
            )
            raise InputError(f"{folder / name}: it {found}.\n  delete {folder} and make it again.")
        if verify and file_sha256(folder / name) != expected["sha256"]:
            raise InputError(
                f"{folder / name}: its content is not what was written.\n  delete {folder} and make it again."
            )
    return facts

"""The files of a checkpoint: which rank writes which, and who hashes which before it is loaded.

Each rank writes and hashes files of its own, so a checkpoint of many ranks is written in parallel
and read once in total. If other ranks load it, each file still has exactly one that hashes it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypedDict

import deepspeed.comm as dist

from dskd_ds.errors import InputError
from dskd_ds.files.manifest import (
    FileEntry,
    file_problem,
    parse_manifest,
)
from dskd_ds.student.collectives import all_gather_values, broadcast_from_rank_0

FILE_OF_RANK = re.compile(r"student-(\d+)(?:-\d+\.safetensors|\.json)")


def file_prefix(rank: int) -> str:
    """Return what the names of a rank's files begin with."""
    return f"student-{rank:05d}"


class Manifest(TypedDict):
    """What rank 0 read of a manifest, for all ranks."""

    facts: dict[str, Any]
    files: dict[str, FileEntry]
    problem: str | None
    """Why the manifest is invalid; then the other values are empty."""


def owner_rank(name: str, num_ranks: int) -> int:
    """Return the rank that hashes a file. name: its path relative to the checkpoint's folder."""
    match = FILE_OF_RANK.fullmatch(name)
    return int(match[1]) % num_ranks if match else 0


def _is_own(name: str) -> bool:
    own_rank: int = dist.get_rank()
    return owner_rank(name, dist.get_world_size()) == own_rank


def all_gather_entries(own_files: dict[str, FileEntry]) -> dict[str, FileEntry]:
    """Return the entries of all ranks together. A collective call."""
    return {
        name: entry for entries in all_gather_values(own_files) for name, entry in entries.items()
    }


def broadcast_manifest(folder: Path) -> Manifest:
    """Return what rank 0 reads of a checkpoint's manifest, on all ranks. A collective call."""
    manifest: Manifest = {"facts": {}, "files": {}, "problem": None}
    if dist.get_rank() == 0:
        try:
            manifest["facts"], manifest["files"] = parse_manifest(folder)
        except InputError as error:
            manifest["problem"] = str(error).splitlines()[0].removesuffix(".")
        except OSError as error:
            manifest["problem"] = str(error)
    result: Manifest = broadcast_from_rank_0(manifest)
    return result


def all_gather_problem(folder: Path, files: dict[str, FileEntry]) -> str | None:
    """Return how a checkpoint's files differ from its manifest, or None. A collective call.

    Each rank compares sizes and digests of its own files; all ranks return the same sentence.
    """
    problem: str | None = None
    for name, expected in files.items():
        if problem is None and _is_own(name):
            try:
                problem = file_problem(folder / name, expected)
            except OSError as error:
                problem = str(error)
    found = [text for text in all_gather_values(problem) if text]
    return found[0] if found else None

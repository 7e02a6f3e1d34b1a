"""Digest of every byte of a model's weights, computed once and kept beside them.

Hashing 140 GB takes minutes, so the digest is kept with what the file system says of each file: its
size, inode, and times of the last change. It is computed again if one of these differs. A folder
that cannot be written to has its digest under `$DSKD_HOME/digests`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock

from dskd_ds.files.atomic import write_json
from dskd_ds.files.hashes import file_sha256
from dskd_ds.spec import dskd_home

DIGEST_FILE = ".dskd-digest.json"
DIGEST_CHARACTERS = 32
"""128 bits in hex."""
HASHING_THREADS = 4
"""Files that are hashed at a time: SHA-256 runs outside of Python's lock."""


def weights_digest(folder: Path) -> str:
    """Return a digest of all safetensors files of a folder and of its config.json.

    It is equal for two copies of the same files, and another one if a single byte differs.
    """
    files = sorted([*folder.glob("*.safetensors"), folder / "config.json"])
    states = _file_states(files)
    kept = (folder / DIGEST_FILE, _file_in_home(folder))
    if (known := _known_digest(kept, states)) is not None:
        return known
    home_file = kept[1]
    home_file.parent.mkdir(parents=True, exist_ok=True)
    # The other ranks of a node wait here and then find the digest.
    with FileLock(f"{home_file}.lock"):
        if (known := _known_digest(kept, states)) is not None:
            return known
        digest = _digest_of(files)
        # A file that changed meanwhile has an unknown digest; the next call hashes it again.
        if _file_states(files) == states:
            _keep(kept, states, digest)
    return digest


def _digest_of(files: Sequence[Path]) -> str:
    """Hash the files, several at a time, and return the digest of their names and digests."""
    with ThreadPoolExecutor(HASHING_THREADS, thread_name_prefix="hash weights") as pool:
        digests = list(pool.map(file_sha256, files))
    lines = [f"{path.name} {digest}\n" for path, digest in zip(files, digests, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:DIGEST_CHARACTERS]


def _file_states(files: Sequence[Path]) -> dict[str, list[int]]:
    """Return size, inode and times of change of each file, by its name."""
    states: dict[str, list[int]] = {}
    for path in files:
        state = path.stat()
        # The second time changes also where a program restores the first one after a write.
        states[path.name] = [state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns]
    return states


def _file_in_home(folder: Path) -> Path:
    """Return the file for the digest of a folder that cannot be written to."""
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:DIGEST_CHARACTERS]
    return dskd_home() / "digests" / f"{name}.json"


def _known_digest(kept: Sequence[Path], states: dict[str, list[int]]) -> str | None:
    """Return the digest that one of the files holds for these states; None if none does."""
    for path in kept:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and content.get("files") == states:
            digest = content.get("digest")
            if isinstance(digest, str):
                return digest
    return None


def _keep(kept: Sequence[Path], states: dict[str, list[int]], digest: str) -> None:
    """Write the digest into the first of the files that can be written."""
    for path in kept:
        with contextlib.suppress(OSError):
            write_json(path, {"digest": digest, "files": states})
            return

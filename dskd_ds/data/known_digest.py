"""Digests of text files, computed once: a corpus that was copied is not read at every start.

A digest is kept under `$DSKD_HOME/digests`, with what the file system says of the file. It is
computed again if that differs (models/weights_digest.py does the same for a model's folder).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

from filelock import FileLock

from dskd_ds.files.atomic import write_json
from dskd_ds.files.hashes import file_sha256
from dskd_ds.spec import dskd_home


def known_sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file's content, which is read if it is new or has changed."""
    kept = kept_file(path)
    kept.parent.mkdir(parents=True, exist_ok=True)
    # The other ranks of a node wait here and then find the digest.
    with FileLock(f"{kept}.lock"):
        state = _state(path)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(kept.read_text(encoding="utf-8"))
            if content["state"] == state:
                return str(content["sha256"])
        digest = file_sha256(path)
        # A file that changed meanwhile is read again the next time.
        if _state(path) == state:
            write_json(kept, {"sha256": digest, "state": state})
        return digest


def kept_file(path: Path) -> Path:
    """Return where the digest of a file is kept."""
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    return dskd_home() / "digests" / f"text-{name}.json"


def _state(path: Path) -> list[int]:
    """Return size, inode and times of change of a file."""
    status = path.stat()
    # The second time changes also where a program restores the first one after a write.
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]

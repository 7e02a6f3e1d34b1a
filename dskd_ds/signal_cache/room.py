"""Keeps a cache below its limit: the oldest segments of all teachers are removed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dskd_ds.signal_cache.index import index_path
from dskd_ds.signal_cache.segments import SEGMENT_ENDING

MAX_SEGMENT_BYTES = 256 << 20
WRITING_SECONDS = 3600.0
"""A segment without an index that was not written to for so long has no writer any more."""
SEGMENTS_PER_LIMIT = 64
"""A full cache loses about this share of its records at a time."""


@dataclass(frozen=True)
class SegmentFile:
    """A segment on disk."""

    path: Path
    num_bytes: int
    may_grow: bool
    """Whether a process may append to it: it has no index file, and was written to lately. The
    writer of an older one without an index was killed."""


def segment_limit(limit_bytes: int) -> int:
    """Return the most bytes of a segment in a cache with this limit (0: none)."""
    if limit_bytes == 0:
        return MAX_SEGMENT_BYTES
    return max(1, min(MAX_SEGMENT_BYTES, limit_bytes // SEGMENTS_PER_LIMIT))


def segment_files(root: Path) -> list[SegmentFile]:
    """Return the segments of all teachers in a cache, the oldest first."""
    return sorted(_segment_files(root), key=lambda segment: segment.path.name)


def _segment_files(root: Path) -> Iterator[SegmentFile]:
    for path in root.glob(f"*/*{SEGMENT_ENDING}"):
        with contextlib.suppress(OSError):  # another process has just removed it
            status = path.stat()
            is_recent = time.time() - status.st_mtime < WRITING_SECONDS
            may_grow = is_recent and not index_path(path).is_file()
            yield SegmentFile(path, status.st_size, may_grow)


def make_room(root: Path, limit_bytes: int, needed_bytes: int) -> int:
    """Remove the oldest segments until `needed_bytes` more fit; returns the bytes removed.

    limit_bytes: 0 removes nothing. A segment that may grow counts as full. Removing one that is
    written or read harms nobody: its writer begins another, and what was in it is asked again.
    """
    if limit_bytes == 0:
        return 0
    files = segment_files(root)
    full = segment_limit(limit_bytes)
    counted = {
        file.path: max(full, file.num_bytes) if file.may_grow else file.num_bytes for file in files
    }
    total = sum(counted.values())
    removed = 0
    for file in files:
        if total + needed_bytes <= limit_bytes:
            break
        remove_segment(file.path)
        total -= counted[file.path]
        removed += file.num_bytes
    return removed


def remove_segment(path: Path) -> None:
    """Delete a segment and its index file."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        index_path(path).unlink(missing_ok=True)

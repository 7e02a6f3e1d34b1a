"""Keeps a cache below its limit: the oldest segments of all teachers are removed.

A segment that a process may still append to is open. Open segments are removed last: their writers
would begin others at once, and with many writers the cache would keep next to nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
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
    """Whether it is open: it has no index file, and was written to lately. The writer of an older
    one without an index was killed."""


@dataclass(frozen=True)
class NewSegment:
    """The room that was made for a segment."""

    most_bytes: int
    """That it may take."""
    removed: Counter[Path]
    """Bytes that were removed for it, by teacher's folder."""


def segment_limit(limit_bytes: int, num_open: int) -> int:
    """Return the most bytes of a segment in a cache with this limit (0: none).

    num_open: open segments with this one. Together they take at most half of the limit.
    """
    if limit_bytes == 0:
        return MAX_SEGMENT_BYTES
    num_segments = max(SEGMENTS_PER_LIMIT, 2 * num_open)
    return max(1, min(MAX_SEGMENT_BYTES, limit_bytes // num_segments))


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


def begin_segment(root: Path, limit_bytes: int, payload_bytes: int) -> NewSegment:
    """Make room for a new segment; return how large it may be, and what was removed.

    limit_bytes: 0 removes nothing. payload_bytes: of its first record.

    What the open segments may still grow is kept free too. So the limit holds, unless there are
    more than 32 open segments, or some begin at the same moment and do not see each other: then it
    may be exceeded by 1/64 of it for each open segment.
    """
    if limit_bytes == 0:
        return NewSegment(segment_limit(0, 1), Counter())
    complete, still_open = _complete_and_open(root)
    most_bytes = segment_limit(limit_bytes, len(still_open) + 1)
    reserved = sum(max(most_bytes, file.num_bytes) for file in still_open)
    removed = _remove_oldest(complete, limit_bytes - reserved - max(most_bytes, payload_bytes))
    # An open segment goes only if the limit is reached without it growing any more.
    removed += _remove_oldest(still_open, limit_bytes - payload_bytes)
    return NewSegment(most_bytes, removed)


def enough_limit(total_bytes: int, num_open: int, most_payload_bytes: int) -> int:
    """Return a limit at which `begin_segment` removes nothing of this many bytes.

    num_open: open segments at the same time. most_payload_bytes: of their largest record.
    """
    num_segments = max(SEGMENTS_PER_LIMIT, 2 * num_open)
    in_shares = -(-total_bytes * num_segments // (num_segments - num_open))
    in_segments = total_bytes + num_open * MAX_SEGMENT_BYTES
    # A segment is as large as its first record, whatever the limit.
    return max(min(in_shares, in_segments), total_bytes + num_open * most_payload_bytes)


def prune(root: Path, limit_bytes: int) -> int:
    """Remove the oldest segments until the others fit; returns the bytes removed.

    Removing one that is written or read harms nobody: its writer begins another, and what was in it
    is asked again. limit_bytes: 0 removes nothing.
    """
    if limit_bytes == 0:
        return 0
    complete, still_open = _complete_and_open(root)
    return _remove_oldest([*complete, *still_open], limit_bytes).total()


def _complete_and_open(root: Path) -> tuple[list[SegmentFile], list[SegmentFile]]:
    """Return the segments that are complete and those that are open, each with the oldest first."""
    files = segment_files(root)
    complete = [file for file in files if not file.may_grow]
    return complete, [file for file in files if file.may_grow]


def _remove_oldest(files: Sequence[SegmentFile], most_bytes: int) -> Counter[Path]:
    """Remove the first of some segments until the others fit.

    Returns the bytes removed, by teacher's folder.
    """
    total = sum(file.num_bytes for file in files)
    removed: Counter[Path] = Counter()
    for file in files:
        if total - removed.total() <= most_bytes:
            break
        remove_segment(file.path)
        removed[file.path.parent] += file.num_bytes
    return removed


def remove_segment(path: Path) -> None:
    """Delete a segment and its index file."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        index_path(path).unlink(missing_ok=True)

"""What a cache holds, whether it is whole, and what may be removed from it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dskd_ds.signal_cache.folder import KeptTeacher, kept_teachers
from dskd_ds.signal_cache.index import read_index
from dskd_ds.signal_cache.part_rows import unpack_rows
from dskd_ds.signal_cache.room import SegmentFile, segment_files
from dskd_ds.signal_cache.segments import (
    DamagedRecordError,
    Record,
    read_payload,
    scan_segment,
)


@dataclass(frozen=True)
class Holding:
    """What is kept of one teacher."""

    teacher: KeptTeacher
    num_segments: int
    num_records: int
    num_bytes: int


@dataclass(frozen=True)
class Damage:
    """A record, or what lies behind a damaged header, that cannot be used."""

    path: Path
    offset: int
    reason: str


def holdings(root: Path) -> list[Holding]:
    """Return what is kept of each teacher."""
    files = segment_files(root)
    found: list[Holding] = []
    for teacher in kept_teachers(root):
        segments = [file for file in files if file.path.parent == teacher.folder]
        found.append(
            Holding(
                teacher=teacher,
                num_segments=len(segments),
                num_records=sum(_num_records(file) for file in segments),
                num_bytes=sum(file.num_bytes for file in segments),
            )
        )
    return found


def _num_records(segment: SegmentFile) -> int:
    table = read_index(segment.path)
    try:
        return len(table) if table is not None else len(scan_segment(segment.path).records)
    except OSError:
        return 0  # another process has just removed it


def verify(segment: Path) -> Iterator[Record | Damage]:
    """Read every record of a segment and yield it, or what is wrong with it. Raises OSError."""
    scan = scan_segment(segment)
    if scan.num_damaged:
        yield Damage(segment, scan.end, f"{scan.num_damaged} damaged headers")
    for record in scan.records:
        try:
            unpack_rows(read_payload(segment, record))
            yield record
        except DamagedRecordError as error:
            yield Damage(segment, record.offset, str(error))
    size = segment.stat().st_size
    if scan.end < size:
        yield Damage(segment, scan.end, f"{size - scan.end} bytes of a record that is not whole")


def remove_other_teachers(root: Path, weights: str) -> int:
    """Delete what is kept of teachers with other weights; returns the bytes.

    weights: the digest with which fingerprints begin. The same weights may be kept several times:
    filled on another device, or in another number format. A run may be using any of them.
    """
    removed = 0
    for holding in holdings(root):
        if not holding.teacher.fingerprint.startswith(f"{weights}-"):
            shutil.rmtree(holding.teacher.folder, ignore_errors=True)
            removed += holding.num_bytes
    return removed

"""Finds the records of a key in memory: 56 bytes per record, and the index file of a segment."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dskd_ds.files.atomic import write_bytes
from dskd_ds.signal_cache.segments import KEY_BYTES, SEGMENT_ENDING, Record

INDEX_ENDING = ".index"
STORED = np.dtype([("key", "u1", (KEY_BYTES,)), ("offset", "<u8"), ("length", "<u4")])
"""A record in an index file."""
ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("segment", "<u4"), ("record", STORED)])
"""A record in memory, with its key as two numbers."""
HEADER = struct.Struct("<4sII")
"""Magic, number of records, CRC of the records."""
MAGIC = b"DSKI"
NUM_RECENT = 4096
"""New records that are kept in a dictionary before they are sorted into the table."""
SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")

Table = NDArray[Any]


class Location(NamedTuple):
    """A record, and the number of its segment."""

    segment: int
    record: Record


def index_path(segment: Path) -> Path:
    """Return the path of a segment's index file."""
    return segment.with_name(segment.name.removesuffix(SEGMENT_ENDING) + INDEX_ENDING)


def write_index(segment: Path, records: Sequence[Record]) -> None:
    """Write a segment's index file in one piece. Raises OSError."""
    table = stored_table(records)
    content = table.tobytes()
    write_bytes(index_path(segment), HEADER.pack(MAGIC, len(table), zlib.crc32(content)) + content)


def read_index(segment: Path) -> Table | None:
    """Return the records [N] of a segment's index file; None if there is no valid one."""
    try:
        content = index_path(segment).read_bytes()
    except OSError:
        return None
    if len(content) < HEADER.size:
        return None
    magic, count, crc = HEADER.unpack_from(content)
    body = content[HEADER.size :]
    if magic != MAGIC or len(body) != count * STORED.itemsize or zlib.crc32(body) != crc:
        return None
    return np.frombuffer(body, STORED)


def stored_table(records: Sequence[Record]) -> Table:
    """Return records as a table [N] of STORED."""
    table = np.zeros(len(records), STORED)
    for row, record in zip(table, records, strict=True):
        row["key"] = np.frombuffer(record.key, np.uint8)
        row["offset"], row["length"] = record.offset, record.length
    return table


class RecordIndex:
    """The records of all segments, by key."""

    def __init__(self) -> None:
        self._sorted: Table = np.zeros(0, ENTRY)
        self._high: Table = self._sorted["high"].copy()
        """Of `_sorted`, in one piece: a search in a column of the table would copy it each time."""
        self._unsorted: list[Table] = []
        self._recent: dict[bytes, list[Location]] = {}
        self._num_recent = 0

    def __len__(self) -> int:
        return len(self._sorted) + sum(map(len, self._unsorted)) + self._num_recent

    def add_record(self, segment: int, record: Record) -> None:
        """Add one record."""
        self._recent.setdefault(record.key, []).append(Location(segment, record))
        self._num_recent += 1
        if self._num_recent >= NUM_RECENT:
            recent = [location for locations in self._recent.values() for location in locations]
            for number in {location.segment for location in recent}:
                records = [location.record for location in recent if location.segment == number]
                self.add_table(number, stored_table(records))
            self._recent.clear()
            self._num_recent = 0

    def add_table(self, segment: int, records: Table) -> None:
        """Add the records [N] of STORED of one segment."""
        entries = np.zeros(len(records), ENTRY)
        halves = np.ascontiguousarray(records["key"]).view("<u8")
        entries["high"], entries["low"] = halves[:, 0], halves[:, 1]
        entries["segment"], entries["record"] = segment, records
        self._unsorted.append(entries)

    def find(self, key: bytes) -> list[Location]:
        """Return the records of a key, in no special order."""
        if self._unsorted:
            entries = np.concatenate([self._sorted, *self._unsorted])
            self._sorted = entries[np.argsort(entries["high"], kind="stable")]
            self._high = self._sorted["high"].copy()
            self._unsorted = []
        high, low = np.frombuffer(key, "<u8")
        start, end = (int(np.searchsorted(self._high, high, side)) for side in SIDES)
        found = [
            Location(
                int(entry["segment"]),
                Record(key, int(entry["record"]["offset"]), int(entry["record"]["length"])),
            )
            for entry in self._sorted[start:end]
            if entry["low"] == low
        ]
        return found + self._recent.get(key, [])

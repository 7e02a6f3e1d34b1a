"""The records of one teacher in a folder that several processes share.

Each process appends to segments of its own and reads those of all. What another process wrote is
seen within REFRESH_SECONDS. A damaged or invalid record counts as missing and is named on stderr.
An object is used by one thread at a time.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from dskd_ds.signal_cache.index import (
    Location,
    RecordIndex,
    read_index,
    stored_table,
    write_index,
)
from dskd_ds.signal_cache.room import begin_segment
from dskd_ds.signal_cache.segments import (
    SEGMENT_ENDING,
    Record,
    SegmentWriter,
    read_payload,
    scan_segment,
)

Parsed = TypeVar("Parsed")
REFRESH_SECONDS = 2.0
"""Shortest time between two looks for what other processes wrote."""


@dataclass
class _Known:
    """A segment of this or another process."""

    number: int
    path: Path
    scanned_to: int = 0
    is_complete: bool = False
    """Whether its index file was read, so that nothing follows."""


@dataclass
class SignalStore:
    """Payloads by key, of one teacher."""

    root: Path
    """The cache's folder, whose size is limited."""
    folder: Path
    """This teacher's folder in it."""
    limit_bytes: int = 0
    """Limit of all segments in `root`; 0: none."""
    _index: RecordIndex = field(default_factory=RecordIndex)
    _known: dict[str, _Known] = field(default_factory=dict)
    _paths: list[Path] = field(default_factory=list)
    """By the segment's number."""
    _bad: set[Location] = field(default_factory=set)
    _writer: SegmentWriter | None = None
    _writer_number: int = -1
    _writer_limit: int = 0
    """Most bytes of the segment that is written."""
    _is_writing: bool = True
    _refreshed_at: float = -REFRESH_SECONDS
    num_damaged: int = 0
    """Damaged records and headers that this process met."""
    num_written_bytes: int = 0
    """Of all records that this process wrote."""
    most_payload_bytes: int = 0
    """Of the largest of them."""
    removed: Counter[Path] = field(default_factory=Counter)
    """Bytes that this process removed to make room, by teacher's folder."""

    @property
    def num_records(self) -> int:
        """Records that are known, those included whose segment has been removed since."""
        return len(self._index)

    @property
    def is_writing(self) -> bool:
        """Whether `put` still writes."""
        return self._is_writing

    def get(self, key: bytes, parse: Callable[[bytes], Parsed]) -> list[Parsed]:
        """Return the payloads of a key, parsed.

        A record that is damaged, or for which `parse` raises ValueError, is left out and named on
        stderr.
        """
        found: list[Parsed] = []
        for location in self._index.find(key):
            if location in self._bad:
                continue
            path = self._paths[location.segment]
            try:
                found.append(parse(read_payload(path, location.record)))
            except OSError:
                self._bad.add(location)  # removed to make room, or unreadable
            except ValueError as error:  # DamagedRecordError too
                self.forget(location, str(error))
        return found

    def forget(self, location: Location, reason: str) -> None:
        """Count a record as missing from now on, and name it on stderr."""
        self._bad.add(location)
        self.num_damaged += 1
        where = f"{self._paths[location.segment]}, byte {location.record.offset}"
        _warn(f"teacher signal in {where} is damaged ({reason}); it is asked again.")

    def put(self, key: bytes, payload: bytes) -> None:
        """Append a record. If the disk is full or read-only, warn once and write no more."""
        if not self._is_writing:
            return
        try:
            record = self._append(key, payload)
        except OSError as error:
            self._is_writing = False
            _warn(
                f"{self.folder}: teacher signal cannot be kept any more ({error.strerror}). The"
                " run goes on and asks the teacher.\n"
                "  make room, or set [teacher] cache_dir to a larger disk."
            )
            return
        self._index.add_record(self._writer_number, record)
        self.num_written_bytes += record.end - record.offset
        self.most_payload_bytes = max(self.most_payload_bytes, len(payload))

    def refresh(self) -> bool:
        """Look for what other processes wrote, unless that was done just now.

        Returns whether it was looked.
        """
        if time.monotonic() - self._refreshed_at < REFRESH_SECONDS:
            return False
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for entry in sorted(os.scandir(self.folder), key=_name):
                if entry.name.endswith(SEGMENT_ENDING):
                    with contextlib.suppress(OSError):
                        self._read_segment(Path(entry.path), entry.stat().st_size)
        self._refreshed_at = time.monotonic()
        return True

    def close(self) -> None:
        """Complete the segment of this process."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            # Before the index, which says that all of its records are there.
            writer.close()
            if not writer.is_deleted:
                write_index(writer.path, writer.records)
        except OSError as error:
            if not writer.is_deleted:
                _warn(f"{writer.path}: {error.strerror}; its last records may be lost.")

    def _append(self, key: bytes, payload: bytes) -> Record:
        """Append a record, to a new segment if the current one is just being removed.

        Raises OSError.
        """
        writer = self._writer_for(len(payload))
        try:
            return writer.append(key, payload)
        except OSError:
            if not writer.is_deleted:
                raise
        return self._writer_for(len(payload)).append(key, payload)

    def _writer_for(self, num_bytes: int) -> SegmentWriter:
        """Return a segment with room for a payload. Raises OSError."""
        writer = self._writer
        if writer is not None:
            is_full = writer.size > 0 and writer.size + num_bytes > self._writer_limit
            if not is_full and not writer.is_deleted:
                return writer
            self.close()
        self.folder.mkdir(parents=True, exist_ok=True)
        segment = begin_segment(self.root, self.limit_bytes, num_bytes)
        self._writer_limit = segment.most_bytes
        self.removed += segment.removed
        self._writer = SegmentWriter(self.folder)
        known = self._add_segment(self._writer.path)
        known.is_complete = True  # what is written goes into the index at once
        self._writer_number = known.number
        return self._writer

    def _add_segment(self, path: Path) -> _Known:
        known = _Known(len(self._paths), path)
        self._paths.append(path)
        self._known[path.name] = known
        return known

    def _read_segment(self, path: Path, size: int) -> None:
        """Add what is new in a segment to the index. Raises OSError."""
        known = self._known.get(path.name) or self._add_segment(path)
        if known.is_complete or size == known.scanned_to:
            return
        table = read_index(path) if known.scanned_to == 0 else None
        if table is not None:
            self._index.add_table(known.number, table)
            known.is_complete = True
            return
        scan = scan_segment(path, known.scanned_to)
        self._index.add_table(known.number, stored_table(scan.records))
        known.scanned_to = scan.end
        if scan.num_damaged:
            self.num_damaged += scan.num_damaged
            _warn(f"{path}: {scan.num_damaged} damaged records; they are asked again.")


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _warn(message: str) -> None:
    tqdm.write(f"warning: {message}", file=sys.stderr)

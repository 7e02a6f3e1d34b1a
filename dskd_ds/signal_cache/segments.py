"""Segments: files of records, each written by one process only and never changed after.

A record is a header (magic, key, length and digest of the payload, CRC of the header) and a
payload. So no file is ever locked: processes that share a folder, also over NFS or Lustre, write
different files, and a reader takes nothing whose digests do not fit. SQLite and LMDB would need
locks that such file systems do not keep.

A process that is killed leaves at most one half record, at the end of its segment. When a segment
is full, its index is written beside it in one piece, so that opening a cache does not read through
the segment; without an index the headers are read instead.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

SEGMENT_ENDING = ".segment"
MAGIC = b"DSK\x01"
KEY_BYTES = DIGEST_BYTES = 16
FIELDS = struct.Struct("<4s16sI16s")
"""Magic, key, length of the payload, digest of the payload."""
CRC = struct.Struct("<I")
HEADER_BYTES = FIELDS.size + CRC.size
MAX_PAYLOAD_BYTES = 1 << 31
SEARCH_BYTES = 1 << 20
"""Bytes that are read at a time to find the next record behind a damaged header."""


@dataclass(frozen=True)
class Record:
    """Where a record is in its segment."""

    key: bytes
    offset: int
    """Of its header."""
    length: int
    """Of its payload."""

    @property
    def end(self) -> int:
        """Offset behind the record."""
        return self.offset + HEADER_BYTES + self.length


class DamagedRecordError(ValueError):
    """A record is not what was written."""


def payload_digest(payload: bytes) -> bytes:
    """Return the digest that a record's header holds."""
    return hashlib.blake2b(payload, digest_size=DIGEST_BYTES).digest()


class SegmentWriter:
    """A new segment that this process appends records to."""

    def __init__(self, folder: Path) -> None:
        """Create the file. Its name sorts by age. Raises OSError."""
        name = f"{time.time_ns():020d}-{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
        self.path = folder / f"{name}{SEGMENT_ENDING}"
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND
        self._file = os.open(self.path, flags, 0o644)
        self.size = 0
        self.records: list[Record] = []
        self._is_stale = False
        """Whether NFS has said that the file is gone."""

    @property
    def is_deleted(self) -> bool:
        """Whether another process has removed the file to make room.

        Looked up by name: NFS only renames an open file that a process of this machine removes. If
        another machine has removed it, an attempt to write may say so first.
        """
        try:
            self.path.stat()
        except OSError:
            return True
        return self._is_stale

    def append(self, key: bytes, payload: bytes) -> Record:
        """Write one record. Raises OSError; the segment then ends with the record before."""
        fields = FIELDS.pack(MAGIC, key, len(payload), payload_digest(payload))
        content = memoryview(fields + CRC.pack(zlib.crc32(fields)) + payload)
        written = 0
        try:
            while written < len(content):
                written += os.write(self._file, content[written:])
        except OSError as error:
            self._is_stale |= error.errno == errno.ESTALE
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self.size)
            raise
        record = Record(key, offset=self.size, length=len(payload))
        self.size += len(content)
        self.records.append(record)
        return record

    def close(self) -> None:
        """Flush the records to disk and close the file. Raises OSError."""
        try:
            os.fsync(self._file)
        except OSError as error:
            self._is_stale |= error.errno == errno.ESTALE
            raise
        finally:
            os.close(self._file)


def read_payload(path: Path, record: Record) -> bytes:
    """Return a record's payload. Raises DamagedRecordError, or OSError if the file is gone."""
    with path.open("rb") as file:
        file.seek(record.offset)
        content = file.read(HEADER_BYTES + record.length)
    found = _parse(content[:HEADER_BYTES], record.offset)
    if found is None or (found[0].key, found[0].length) != (record.key, record.length):
        raise DamagedRecordError("its header is damaged")
    payload = content[HEADER_BYTES:]
    if len(payload) != record.length or payload_digest(payload) != found[1]:
        raise DamagedRecordError("its digest differs")
    return payload


@dataclass
class Scan:
    """What was found in a segment from some offset on."""

    records: list[Record]
    end: int
    """Where a later scan goes on: behind the last whole record."""
    num_damaged: int = 0
    """Damaged headers, each with an unknown number of records behind it."""


def scan_segment(path: Path, start: int = 0) -> Scan:
    """Read the headers of the records from `start` on. Raises OSError.

    A record at the end that is not whole is left for a later scan: its writer may be at it. Behind
    a damaged header the next valid one is searched.
    """
    found = Scan([], start)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while (offset := found.end) + HEADER_BYTES <= size:
            file.seek(offset)
            parsed = _parse(file.read(HEADER_BYTES), offset)
            if parsed is not None:
                record = parsed[0]
                if record.end > size:
                    break
                found.records.append(record)
                found.end = record.end
                continue
            following = next(_headers_from(file, offset + 1, size), None)
            if following is None:
                break
            found.num_damaged += 1
            found.end = following
    return found


def _headers_from(file: BinaryIO, start: int, size: int) -> Iterator[int]:
    """Yield the offsets of valid headers from `start` on."""
    while start < size:
        file.seek(start)
        # Chunks overlap, so that a header across two of them is found.
        chunk = file.read(SEARCH_BYTES + HEADER_BYTES)
        at = chunk.find(MAGIC)
        while 0 <= at < SEARCH_BYTES:
            if _parse(chunk[at : at + HEADER_BYTES], start + at) is not None:
                yield start + at
            at = chunk.find(MAGIC, at + 1)
        start += SEARCH_BYTES


def _parse(header: bytes, offset: int) -> tuple[Record, bytes] | None:
    """Return the record that a header describes and its payload's digest; None if damaged."""
    if len(header) != HEADER_BYTES:
        return None
    magic, key, length, digest = FIELDS.unpack_from(header)
    (crc,) = CRC.unpack_from(header, FIELDS.size)
    is_valid = magic == MAGIC and crc == zlib.crc32(header[: FIELDS.size])
    if not is_valid or length > MAX_PAYLOAD_BYTES:
        return None
    return Record(key, offset=offset, length=length), digest

"""The store: killed writers, flipped bytes, several writers, a full disk, removed segments."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dskd_ds.signal_cache.index import RecordIndex, index_path, read_index, stored_table
from dskd_ds.signal_cache.room import segment_files
from dskd_ds.signal_cache.segments import HEADER_BYTES, Record, scan_segment
from dskd_ds.signal_cache.store import SignalStore

WRITER = """
import sys
from pathlib import Path
from dskd_ds.signal_cache.store import SignalStore
from tests.unit.signal_cache.test_segments import key, payload
root, first, count, limit = Path(sys.argv[1]), *map(int, sys.argv[2:5])
store = SignalStore(root, root / "t", limit)
for number in range(first, first + count):
    store.put(key(number), payload(number))
    print(number, flush=True)
"""


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def payload(number: int) -> bytes:
    """A few kilobytes that name their number."""
    return f"{number} ".encode() * (500 + number % 7)


def open_store(root: Path, limit_bytes: int = 0) -> SignalStore:
    store = SignalStore(root, root / "t", limit_bytes)
    store.refresh()
    return store


def start_writer(
    root: Path, first: int, count: int, limit: int = 0, before: Callable[[], None] | None = None
) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", WRITER, str(root), str(first), str(count), str(limit)]
    return subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=before
    )


def found_numbers(store: SignalStore, count: int) -> list[int]:
    """Numbers whose record is found; a record with other content fails."""
    found: list[int] = []
    for number in range(count):
        payloads = store.get(key(number), bytes)
        assert all(one == payload(number) for one in payloads)
        if payloads:
            found.append(number)
    return found


def test_what_is_put_is_found_by_this_and_by_another_store(tmp_path: Path) -> None:
    with_records = open_store(tmp_path)
    other = SignalStore(tmp_path, tmp_path / "t")
    for number in range(50):
        with_records.put(key(number), payload(number))
    assert found_numbers(with_records, 60) == list(range(50))
    assert other.refresh()
    assert found_numbers(other, 60) == list(range(50))  # before the segment is complete
    assert not other.refresh()  # not again at once
    with_records.close()
    assert index_path(segment_files(tmp_path)[0].path).is_file()
    assert found_numbers(open_store(tmp_path), 60) == list(range(50))


def test_records_of_one_key_are_all_found(tmp_path: Path) -> None:
    first, second = open_store(tmp_path), open_store(tmp_path)
    first.put(key(1), b"a")
    second.put(key(1), b"b")
    first.put(key(1), b"c")
    assert sorted(open_store(tmp_path).get(key(1), bytes)) == [b"a", b"b", b"c"]


def test_a_writer_that_is_killed_leaves_whole_records(tmp_path: Path) -> None:
    writer = start_writer(tmp_path, 0, 5_000)
    assert writer.stdout is not None
    lines = [int(writer.stdout.readline()) for _ in range(40)]
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()
    num_written = len(found_numbers(open_store(tmp_path), 5_000))
    assert num_written > max(lines)
    # A record that the kernel wrote by half, at every place where it can break.
    segment = segment_files(tmp_path)[0].path
    records = scan_segment(segment).records
    content = segment.read_bytes()
    for end in (1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 5):
        segment.write_bytes(content[: records[30].offset + end])
        assert found_numbers(open_store(tmp_path), 100) == list(range(30))
    # Another process goes on, in a segment of its own.
    again = open_store(tmp_path)
    again.put(key(30), payload(30))
    assert found_numbers(open_store(tmp_path), 100) == list(range(31))


@pytest.mark.parametrize("part", ["magic", "key", "length", "digest", "crc", "payload"])
@pytest.mark.parametrize("has_index", [False, True])
def test_flipped_bytes_cost_one_record_and_are_named(
    tmp_path: Path, part: str, has_index: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    store = open_store(tmp_path)
    for number in range(20):
        store.put(key(number), payload(number))
    store.close()
    segment = segment_files(tmp_path)[0].path
    records = scan_segment(segment).records
    if not has_index:
        index_path(segment).unlink()
    offsets = {"magic": 1, "key": 9, "length": 21, "digest": 30, "crc": 41, "payload": 300}
    content = bytearray(segment.read_bytes())
    content[records[7].offset + offsets[part]] ^= 0x10
    segment.write_bytes(content)
    damaged = open_store(tmp_path)
    assert found_numbers(damaged, 30) == [number for number in range(20) if number != 7]
    assert damaged.num_damaged == 1
    error = capfd.readouterr().err
    assert segment.name in error
    assert "asked again" in error
    damaged.put(key(7), payload(7))
    assert found_numbers(damaged, 30) == list(range(20))


def test_a_damaged_index_is_not_used(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for number in range(20):
        store.put(key(number), payload(number))
    store.close()
    segment = segment_files(tmp_path)[0].path
    path = index_path(segment)
    content = bytearray(path.read_bytes())
    for damaged in (
        content[:-3],
        content[:5],
        content[:40] + bytes([content[40] ^ 1]) + content[41:],
    ):
        path.write_bytes(damaged)
        assert read_index(segment) is None
        assert found_numbers(open_store(tmp_path), 30) == list(range(20))


def test_two_processes_fill_it_at_the_same_time(tmp_path: Path) -> None:
    writers = [start_writer(tmp_path, first, 60) for first in (0, 40)]
    for writer in writers:
        assert writer.wait() == 0
        writer.communicate()
    store = open_store(tmp_path)
    assert found_numbers(store, 200) == list(range(100))
    assert store.num_damaged == 0
    assert len(store.get(key(50), bytes)) == 2  # both wrote it


def test_a_writer_whose_segment_was_removed_begins_another(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put(key(1), payload(1))
    segment_files(tmp_path)[0].path.unlink()
    store.put(key(2), payload(2))
    assert found_numbers(store, 5) == [2]
    assert found_numbers(open_store(tmp_path), 5) == [2]


def test_a_segment_that_another_machine_removed_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """On NFS its name is still known here, and writing fails."""
    store = open_store(tmp_path)
    store.put(key(1), payload(1))
    assert store._writer is not None
    removed, write = store._writer._file, os.write

    def write_to_nfs(file: int, content: memoryview) -> int:
        if file == removed:
            monkeypatch.undo()  # its number may be given to the next file
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return write(file, content)

    monkeypatch.setattr(os, "write", write_to_nfs)
    store.put(key(2), payload(2))
    assert store.is_writing
    first, second = segment_files(tmp_path)
    assert len(scan_segment(second.path).records) == 1
    assert not index_path(first.path).exists()
    assert not capfd.readouterr().err


def test_records_are_on_the_disk_before_their_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    store = open_store(tmp_path)
    store.put(key(1), payload(1))

    def failing_sync(_file: int) -> None:
        assert not list(tmp_path.glob("*/*.index"))
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", failing_sync)
    store.close()
    assert not list(tmp_path.glob("*/*.index"))
    assert "its last records may be lost" in capfd.readouterr().err


def test_a_removed_segment_gets_no_index(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put(key(1), payload(1))
    segment_files(tmp_path)[0].path.unlink()
    store.close()
    assert not list(tmp_path.glob("*/*"))


def test_a_full_disk_turns_the_cache_off_with_one_warning(tmp_path: Path) -> None:
    def limit_file_size() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    writer = start_writer(tmp_path, 0, 100, before=limit_file_size)
    output, error = writer.communicate()
    assert writer.returncode == 0
    assert output.split()[-1] == "99"  # it goes on
    assert error.count("cannot be kept any more") == 1
    assert "[teacher] cache_dir" in error
    store = open_store(tmp_path)
    found = found_numbers(store, 100)
    assert 0 < len(found) < 20
    assert store.num_damaged == 0
    store.put(key(99), payload(99))
    assert 99 in found_numbers(store, 100)


def test_a_folder_that_cannot_be_made_is_no_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    store = SignalStore(tmp_path / "file", tmp_path / "file" / "t")
    store.refresh()
    store.put(key(1), payload(1))
    assert store.get(key(1), bytes) == []
    assert "cannot be kept" in capfd.readouterr().err


def test_the_index_finds_what_was_added_in_any_way() -> None:
    index = RecordIndex()
    records = [Record(key(number % 700), number, 5) for number in range(10_000)]
    index.add_table(0, stored_table(records[:3000]))
    for record in records[3000:]:
        index.add_record(1, record)
    assert len(index) == 10_000
    for number in (0, 1, 699):
        expected = {record.offset for record in records if record.key == key(number)}
        assert {location.record.offset for location in index.find(key(number))} == expected
    assert index.find(key(701)) == []

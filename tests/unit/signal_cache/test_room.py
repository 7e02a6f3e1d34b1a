"""A cache with a limit: the oldest records make room, and writers do not drive each other out."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from dskd_ds.signal_cache.room import begin_segment, enough_limit, segment_files
from dskd_ds.signal_cache.segments import HEADER_BYTES, SEGMENT_ENDING, scan_segment
from dskd_ds.signal_cache.store import SignalStore
from tests.unit.signal_cache.test_segments import found_numbers, key, open_store, payload


def test_the_oldest_records_make_room(tmp_path: Path) -> None:
    limit = 64 * 6_000
    store = open_store(tmp_path, limit)
    for number in range(600):
        store.put(key(number), payload(number))
    total = sum(file.num_bytes for file in segment_files(tmp_path))
    assert limit // 2 < total <= limit
    found = found_numbers(store, 600)
    assert found == list(range(600 - len(found), 600))
    assert found_numbers(open_store(tmp_path, limit), 600) == found


def test_segments_of_killed_writers_count_as_large_as_they_are(tmp_path: Path) -> None:
    """Whoever was killed writes no index, and what it left is never filled."""
    limit = 64 * 6_000
    for number in range(64):
        (tmp_path / "teacher").mkdir(exist_ok=True)
        path = tmp_path / "teacher" / f"{number:03d}{SEGMENT_ENDING}"
        path.write_bytes(b"little")
    assert begin_segment(tmp_path, limit, 0).most_bytes < 6_000  # they may still be written
    for path in (tmp_path / "teacher").iterdir():
        os.utime(path, (0, 0))
    assert begin_segment(tmp_path, limit, 0).most_bytes == 6_000
    assert len(segment_files(tmp_path)) == 64  # they are small, and there is room


def test_many_writers_do_not_remove_each_others_segments(tmp_path: Path) -> None:
    """There are more of them than segments of the usual size fit."""
    limit, num_writers = 64 * 6_000, 80
    writers = [open_store(tmp_path, limit) for _ in range(num_writers)]
    for number in range(num_writers):
        writers[number].put(key(number), bytes(2_000))
    assert len(scanned(tmp_path)) == num_writers
    # Old segments are removed for new ones, but none that is open.
    for number in range(num_writers, 10 * num_writers):
        writers[number % num_writers].put(key(number), bytes(2_000))
        assert sum(file.num_bytes for file in segment_files(tmp_path)) <= limit
    found = scanned(tmp_path)
    assert len(found) > limit // 2_000 // 2
    assert found >= set(range(9 * num_writers, 10 * num_writers))


def test_what_a_store_removes_is_counted_by_teacher(tmp_path: Path) -> None:
    limit = 64 * 6_000
    other = SignalStore(tmp_path, tmp_path / "other", limit)
    for number in range(20):
        other.put(key(number), bytes(6_000))
    other.close()
    assert not other.removed
    held = bytes_by_teacher(tmp_path)["other"]
    store = open_store(tmp_path, limit)
    for number in range(100):
        store.put(key(number), bytes(6_000))
    left = bytes_by_teacher(tmp_path)
    assert store.removed[other.folder] == held
    assert store.removed[store.folder] == store.num_written_bytes - left["t"] > 0
    assert store.num_written_bytes == 100 * (HEADER_BYTES + 6_000)


@pytest.mark.parametrize("num_writers", [1, 5, 40])
@pytest.mark.parametrize("payload_bytes", [100, 5_000])
def test_nothing_is_removed_at_a_limit_that_is_enough(
    tmp_path: Path, num_writers: int, payload_bytes: int
) -> None:
    """Segments hold several of the small records, and none of the large ones."""
    num_records = 400
    total = num_records * (HEADER_BYTES + payload_bytes)
    limit = enough_limit(total, num_writers, payload_bytes)
    assert total < limit < 2.2 * total
    writers = [open_store(tmp_path, limit) for _ in range(num_writers)]
    for number in range(num_records):
        writers[number % num_writers].put(key(number), bytes(payload_bytes))
    assert not any(store.removed for store in writers)
    assert scanned(tmp_path) == set(range(num_records))


def bytes_by_teacher(root: Path) -> Counter[str]:
    """Bytes of all segments of a cache, by their teacher's folder."""
    found: Counter[str] = Counter()
    for file in segment_files(root):
        found[file.path.parent.name] += file.num_bytes
    return found


def scanned(root: Path) -> set[int]:
    """Numbers of all records in a cache."""
    files = [scan_segment(file.path) for file in segment_files(root)]
    return {int.from_bytes(record.key, "big") for scan in files for record in scan.records}

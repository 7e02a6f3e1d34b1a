"""Rows in Arrow files that `datasets` maps into memory, each with a small JSON record beside it.

A shard is written whole or not at all, and its record last, so a killed job finds out by the record
which shards are done. Any row is found by its number without reading what is before it.
"""

from __future__ import annotations

import bisect
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa

from dskd_ds.data.row_reader import Columns
from dskd_ds.files.atomic import atomic_file, write_json
from dskd_ds.files.manifest import FileEntry, describe_file

MAX_OPEN = 512
"""Shards that a reader keeps mapped: each takes a file descriptor, of which there may be 1,024."""
MOST_SHARDS, MOST_GROUPS = 256, 256
"""A text has at most MOST_SHARDS shards, until each of them has MOST_GROUPS groups."""


def groups_per_shard(num_groups: int) -> int:
    """Return the number of groups in a shard, for a text of this many groups.

    It does not depend on the ranks. Many shards spread the work over ranks, and a killed rank loses
    little; few shards are fewer files.
    """
    return max(1, min(MOST_GROUPS, -(-num_groups // MOST_SHARDS)))


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"{number:05d}.arrow"


class ShardRecord(TypedDict):
    """What is known of a shard."""

    rows: int
    file: FileEntry
    counts: dict[str, int]
    """What was counted while it was made, summed over shards at the end."""


def write_shard(
    folder: Path,
    number: int,
    groups: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    counts: Mapping[str, int],
) -> None:
    """Write a shard, with one record batch per group, and then its record.

    counts: is read after the groups, so what yields them may fill it.
    """
    path, num_rows = folder / shard_name(number), 0
    with atomic_file(path) as partial, pa.ipc.new_stream(str(partial), schema) as writer:
        for batch in groups:
            writer.write_batch(batch)
            num_rows += len(batch)
    record = ShardRecord(rows=num_rows, file=describe_file(path), counts=dict(counts))
    write_json(path.with_suffix(".json"), record, sync=True)


def is_written(folder: Path, number: int) -> bool:
    """Return whether a shard is complete."""
    return (folder / shard_name(number)).with_suffix(".json").is_file()


def read_records(folder: Path, num_shards: int) -> list[ShardRecord]:
    """Return the records of all shards, which must be complete."""
    paths = [(folder / shard_name(number)).with_suffix(".json") for number in range(num_shards)]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


class ArrowShards:
    """The rows of all shards of a folder, by number. A shard is opened when it is first read."""

    def __init__(self, folder: Path, rows_of_shards: Sequence[int]) -> None:
        self._folder = folder
        self._ends = list(itertools.accumulate(rows_of_shards))
        self._open = lru_cache(maxsize=MAX_OPEN)(self._open_shard)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int, /) -> Any:
        """Return one row as a dict."""
        shard = bisect.bisect_right(self._ends, index)
        return self._open(shard)[index - self._start(shard)]

    def as_dataset(self) -> Any:
        """Return all rows as one `datasets.Dataset`, which opens all shards."""
        import datasets

        shards = [self._open(shard) for shard in range(len(self._ends))]
        return datasets.concatenate_datasets(shards)

    def columns(self, rows: range) -> Columns:
        """Return consecutive rows, which may be in several shards."""
        parts: list[Columns] = []
        start = rows.start
        while start < rows.stop:
            shard = bisect.bisect_right(self._ends, start)
            stop, first = min(rows.stop, self._ends[shard]), self._start(shard)
            parts.append(self._open(shard)[start - first : stop - first])
            start = stop
        return {
            name: list(itertools.chain.from_iterable(part[name] for part in parts))
            for name in parts[0]
        }

    def _start(self, shard: int) -> int:
        return self._ends[shard - 1] if shard else 0

    def _open_shard(self, shard: int) -> Any:
        import datasets

        return datasets.Dataset.from_file(str(self._folder / shard_name(shard)))

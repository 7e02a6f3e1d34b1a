"""The sample of vectors on disk, in bounded memory, and able to go on after a kill.

Each rank has a folder. New rows are appended to files of their own for each range of token ids (a bucket); a bucket that has grown
to twice its bound is cut back to the sample it holds. `progress.json`, replaced in one step, says which forward batches are in
and how much of which file counts; what a kill left behind beyond that is cut off at the next start. All ranks' folders together
are the collection, whatever the number of ranks was when each was written.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dskd_ds.files.atomic import flush_to_disk, write_json
from dskd_ds.senses.build.vectors import Rows, record_type, smallest

PROGRESS_FILE = "progress.json"


@dataclass(frozen=True)
class Layout:
    """How the sample is cut into buckets. Not a setting of the machine: tokens of one bucket are clustered together."""

    hidden_size: int
    vocab_size: int
    per_token: int
    """Vectors that are kept for each token."""
    bucket_bytes: int = 128 << 20
    """About the largest sample of one bucket; a few times this is in memory when a bucket is cut back, or clustered."""
    spill_bytes: int = 128 << 20
    """New rows that are in memory before they are appended to their buckets."""

    @property
    def record(self) -> np.dtype[np.void]:
        """See vectors.record_type."""
        return record_type(self.hidden_size)

    @property
    def bucket_tokens(self) -> int:
        """Token ids of a bucket: bucket b has those from b * bucket_tokens on."""
        return max(1, self.bucket_bytes // (self.per_token * self.record.itemsize))


class Spill:
    """One rank's part of the collection."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        """Open a folder, and forget whatever was not committed there."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.layout = folder, layout
        progress = read_progress(folder)
        self._batches: list[int] = progress["batches"]
        self._buckets: dict[int, tuple[int, int]] = progress["buckets"]
        self._fresh: list[Rows] = []
        self._fresh_batches: list[int] = []
        self._touched: set[int] = set()
        self._stale: list[Path] = []
        # The hash above which a row of a token can no longer be part of the sample.
        self._limits = np.full(layout.vocab_size, np.iinfo(np.uint64).max, np.uint64)
        known = {self._path(bucket) for bucket in self._buckets}
        for path in set(folder.glob("*.rows")) - known:
            path.unlink()
        for bucket, (_, rows) in self._buckets.items():
            os.truncate(self._path(bucket), rows * layout.record.itemsize)

    def add(self, rows: Rows, batch: int) -> None:
        """Take in the rows of a forward batch."""
        self._fresh.append(rows[rows["hash"] <= self._limits[rows["token"]]])
        self._fresh_batches.append(batch)
        if sum(part.nbytes for part in self._fresh) >= self.layout.spill_bytes:
            self._append()

    def commit(self) -> None:
        """Make everything that was added part of the collection, for good."""
        self._append()
        for bucket in self._touched:
            flush_to_disk(self._path(bucket))
        self._batches += self._fresh_batches
        progress = {"batches": self._batches, "buckets": self._buckets}
        write_json(self.folder / PROGRESS_FILE, progress, sync=True)
        for path in self._stale:
            path.unlink()
        self._fresh_batches, self._touched, self._stale = [], set(), []

    def _path(self, bucket: int) -> Path:
        return self.folder / f"{bucket:06d}.{self._buckets[bucket][0]}.rows"

    def _append(self) -> None:
        """New rows from memory to their buckets."""
        rows = np.concatenate([np.empty(0, self.layout.record), *self._fresh])
        self._fresh = []
        if not len(rows):
            return
        buckets = rows["token"] // self.layout.bucket_tokens
        order = np.argsort(buckets, kind="stable")
        numbers, starts = np.unique(buckets[order], return_index=True)
        for bucket, part in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
            generation, length = self._buckets.setdefault(bucket, (0, 0))
            with self._path(bucket).open("ab") as file:
                rows[part].tofile(file)
            self._buckets[bucket] = (generation, length + len(part))
            self._touched.add(bucket)
            if length + len(part) > 2 * self.layout.bucket_tokens * self.layout.per_token:
                self._cut_back(bucket)

    def _cut_back(self, bucket: int) -> None:
        """Replace a bucket's file with one of its sample; the old one stays until the commit."""
        generation, length = self._buckets[bucket]
        kept = smallest(
            np.fromfile(self._path(bucket), self.layout.record, length), self.layout.per_token
        )
        self._stale.append(self._path(bucket))
        self._buckets[bucket] = (generation + 1, len(kept))
        kept.tofile(self._path(bucket))
        tokens, counts = np.unique(kept["token"], return_counts=True)
        full, ends = counts == self.layout.per_token, np.cumsum(counts)
        self._limits[tokens[full]] = kept["hash"][ends[full] - 1]


class BackgroundSpill:
    """Feeds a spill from a thread, so that the teacher need not wait for the disk. At most one forward batch waits."""

    COMMIT_SHARE = 0.02
    """Commits (mostly waiting for the disk) take about this share of the time: a fast teacher waits for them."""

    def __init__(self, spill: Spill) -> None:
        self._spill = spill
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spill")
        self._pending: Future[None] | None = None
        self._next_commit = 0.0

    def add(self, rows: Rows, batch: int) -> None:
        """Hand over a batch. Raises what the thread met with, e.g. OSError when the disk is full."""
        if self._pending:
            self._pending.result()
        self._pending = self._thread.submit(self._write, rows, batch)

    def close(self) -> None:
        """Write and commit what is left."""
        if self._pending:
            self._pending.result()
        self._thread.submit(self._spill.commit).result()
        self._thread.shutdown()

    def _write(self, rows: Rows, batch: int) -> None:
        self._spill.add(rows, batch)
        started = time.monotonic()
        if started >= self._next_commit:
            self._spill.commit()
            now = time.monotonic()
            self._next_commit = now + (now - started) * (1 / self.COMMIT_SHARE - 1)


def read_progress(folder: Path) -> dict[str, Any]:
    """`batches`: forward batches that are in; `buckets`: number -> (generation, rows) of its file."""
    path = folder / PROGRESS_FILE
    content = json.loads(path.read_text()) if path.is_file() else {"batches": [], "buckets": {}}
    return {
        "batches": content["batches"],
        "buckets": {int(number): tuple(state) for number, state in content["buckets"].items()},
    }


class Collected:
    """All ranks' parts of a collection, to be read bucket by bucket."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.layout = layout
        self._parts = [
            (path.parent, read_progress(path.parent))
            for path in sorted(folder.glob(f"rank-*/{PROGRESS_FILE}"))
        ]

    @property
    def batches(self) -> set[int]:
        """Forward batches that are in."""
        return {batch for _, progress in self._parts for batch in progress["batches"]}

    @property
    def buckets(self) -> list[int]:
        """Buckets with rows, ascending."""
        return sorted({bucket for _, progress in self._parts for bucket in progress["buckets"]})

    def rows(self, bucket: int) -> Rows:
        """The sample of a bucket's tokens, sorted by token and hash."""
        kept: Rows = np.empty(0, self.layout.record)
        for folder, progress in self._parts:
            if bucket in progress["buckets"]:
                generation, length = progress["buckets"][bucket]
                part = np.fromfile(
                    folder / f"{bucket:06d}.{generation}.rows", self.layout.record, length
                )
                kept = smallest(np.concatenate([kept, part]), self.layout.per_token)
        return kept

    def __iter__(self) -> Iterator[Rows]:
        """Bucket by bucket."""
        return map(self.rows, self.buckets)


def rank_folder(work: Path, rank: int) -> Path:
    """Where a rank's part lies."""
    return work / f"rank-{rank:04d}"

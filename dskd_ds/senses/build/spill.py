"""The collection: a sample of vectors on disk, in bounded memory, that survives a kill.

Each rank has a folder. New rows are appended to one file per range of token ids (a bucket). A
bucket that has grown to twice its limit is cut back to the sample it holds. `progress.json`,
replaced in one step, records which forward batches are included and how many rows of each file
count; what a kill left beyond that is cut off at the next start. All ranks' folders together are
the collection, whatever the number of ranks was when each was written.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dskd_ds.files.atomic import flush_to_disk, write_json
from dskd_ds.senses.build.vectors import Rows, record_type, smallest

PROGRESS_FILE = "progress.json"


@dataclass(frozen=True)
class Layout:
    """How the sample is divided into buckets.

    It is not a setting of the machine: tokens of one bucket are clustered together.
    """

    hidden_size: int
    vocab_size: int
    per_token: int
    """Maximum number of vectors kept per token."""
    bucket_bytes: int = 128 << 20
    """Approximate maximum size of one bucket's sample. A few times this is in memory when a bucket
    is cut back or clustered."""
    tokens_per_bucket: int = 0
    """Token ids per bucket, if several collections must have the same; 0: from `bucket_bytes`."""
    spill_bytes: int = 128 << 20
    """New rows that are held in memory before they are appended to their buckets."""

    @property
    def record(self) -> np.dtype[np.void]:
        """Type of a row, see vectors.record_type."""
        return record_type(self.hidden_size)

    @property
    def bucket_tokens(self) -> int:
        """Token ids per bucket: bucket b has those from b * bucket_tokens on."""
        if self.tokens_per_bucket:
            return self.tokens_per_bucket
        return max(1, self.bucket_bytes // (self.per_token * self.record.itemsize))


class BucketFile(NamedTuple):
    """The file of a bucket in one rank's folder."""

    generation: int
    """How often the bucket was cut back; part of the file name."""
    num_rows: int
    """Rows that count. What follows them in the file was never committed."""


@dataclass
class Progress:
    """What one rank's folder holds."""

    batches: list[int] = field(default_factory=list)
    """Indices of the forward batches that are included."""
    buckets: dict[int, BucketFile] = field(default_factory=dict)

    @staticmethod
    def read(folder: Path) -> Progress:
        """Read progress.json; return no progress if there is none."""
        path = folder / PROGRESS_FILE
        if not path.is_file():
            return Progress()
        content = json.loads(path.read_text(encoding="utf-8"))
        buckets = {int(bucket): BucketFile(*file) for bucket, file in content["buckets"].items()}
        return Progress(content["batches"], buckets)

    def write(self, folder: Path) -> None:
        """Replace progress.json in one step, and flush it to disk."""
        content = {"batches": self.batches, "buckets": self.buckets}
        write_json(folder / PROGRESS_FILE, content, sync=True)


class Spill:
    """One rank's part of the collection, to be written."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        """Open a folder, and delete what was not committed in it."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.layout = folder, layout
        self._progress = Progress.read(folder)
        self._buckets = self._progress.buckets
        self._new_rows: list[Rows] = []
        self._new_batches: list[int] = []
        self._changed_buckets: set[int] = set()
        self._stale_files: list[Path] = []
        # Per token: a row with a larger hash can no longer be part of the sample.
        self._max_hashes = np.full(layout.vocab_size, np.iinfo(np.uint64).max, np.uint64)
        known = {self._path(bucket) for bucket in self._buckets}
        for path in set(folder.glob("*.rows")) - known:
            path.unlink()
        for bucket, file in self._buckets.items():
            os.truncate(self._path(bucket), file.num_rows * layout.record.itemsize)

    def add(self, rows: Rows, batch: int) -> None:
        """Add the rows of a forward batch; they are lost in a kill until they are committed."""
        can_be_kept = rows["hash"] <= self._max_hashes[rows["token"]]
        self._new_rows.append(rows[can_be_kept])
        self._new_batches.append(batch)
        if sum(part.nbytes for part in self._new_rows) >= self.layout.spill_bytes:
            self._append()

    def commit(self) -> None:
        """Make everything that was added a permanent part of the collection."""
        self._append()
        # The order makes a kill harmless: rows are on disk before the progress counts them, and
        # the old file of a cut bucket stays until the progress names the new one.
        for bucket in self._changed_buckets:
            flush_to_disk(self._path(bucket))
        self._progress.batches += self._new_batches
        self._progress.write(self.folder)
        for path in self._stale_files:
            path.unlink()
        self._new_batches, self._changed_buckets, self._stale_files = [], set(), []

    def _path(self, bucket: int) -> Path:
        return bucket_path(self.folder, bucket, self._buckets[bucket])

    def _append(self) -> None:
        """Move the new rows from memory to the files of their buckets."""
        rows = np.concatenate([np.empty(0, self.layout.record), *self._new_rows])
        self._new_rows = []
        if not len(rows):
            return
        max_rows = 2 * self.layout.bucket_tokens * self.layout.per_token
        # Sorted by bucket, so that each file is opened once.
        buckets = rows["token"] // self.layout.bucket_tokens
        order = np.argsort(buckets, kind="stable")
        bucket_ids, starts = np.unique(buckets[order], return_index=True)
        for bucket, selected in zip(bucket_ids.tolist(), np.split(order, starts[1:]), strict=True):
            generation, num_rows = self._buckets.setdefault(bucket, BucketFile(0, 0))
            with self._path(bucket).open("ab") as file:
                # Not `tofile`: it does not say why it could not write.
                file.write(rows[selected].data)
            num_rows += len(selected)
            self._buckets[bucket] = BucketFile(generation, num_rows)
            self._changed_buckets.add(bucket)
            if num_rows > max_rows:
                self._cut_back(bucket)

    def _cut_back(self, bucket: int) -> None:
        """Replace a bucket's file by one of its sample; the old file stays until the commit."""
        old_path, file = self._path(bucket), self._buckets[bucket]
        rows = np.fromfile(old_path, self.layout.record, file.num_rows)
        kept = smallest(rows, self.layout.per_token)
        self._stale_files.append(old_path)
        self._buckets[bucket] = BucketFile(file.generation + 1, len(kept))
        self._path(bucket).write_bytes(kept.data)
        # `kept` is sorted by token and hash, so a token's last row has its largest hash.
        tokens, counts = np.unique(kept["token"], return_counts=True)
        full, ends = counts == self.layout.per_token, np.cumsum(counts)
        self._max_hashes[tokens[full]] = kept["hash"][ends[full] - 1]


class BackgroundSpill:
    """Writes to a spill in a thread, so that the teacher need not wait for the disk.

    At most one forward batch waits to be written.
    """

    COMMIT_SHARE = 0.02
    """Share of the time that commits take, about: they mostly wait for the disk, and would slow
    down a fast teacher."""

    def __init__(self, spill: Spill) -> None:
        """Start the thread."""
        self._spill = spill
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spill")
        self._pending: Future[None] | None = None
        self._next_commit = 0.0

    def add(self, rows: Rows, batch: int) -> None:
        """Give a batch to the thread. Raises an earlier error of the thread, e.g. a full disk."""
        if self._pending:
            self._pending.result()
        self._pending = self._thread.submit(self._write, rows, batch)

    def close(self) -> None:
        """Write and commit what is left, and end the thread. Raises the errors of the thread."""
        if self._pending:
            self._pending.result()
        self._thread.submit(self._spill.commit).result()
        self._thread.shutdown()

    def _write(self, rows: Rows, batch: int) -> None:
        """Add a batch, and commit if the last commit is long enough ago."""
        self._spill.add(rows, batch)
        start_seconds = time.monotonic()
        if start_seconds >= self._next_commit:
            self._spill.commit()
            end_seconds = time.monotonic()
            pause_seconds = (end_seconds - start_seconds) * (1 / self.COMMIT_SHARE - 1)
            self._next_commit = end_seconds + pause_seconds


class Collected:
    """All ranks' parts of a collection, to be read bucket by bucket."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        """Read the progress of all ranks."""
        self.layout = layout
        paths = sorted(folder.glob(f"rank-*/{PROGRESS_FILE}"))
        self._ranks = [(path.parent, Progress.read(path.parent)) for path in paths]

    @property
    def batches(self) -> set[int]:
        """Indices of the forward batches that are included."""
        return {batch for _, progress in self._ranks for batch in progress.batches}

    @property
    def buckets(self) -> list[int]:
        """Buckets with rows, ascending."""
        return sorted({bucket for _, progress in self._ranks for bucket in progress.buckets})

    def rows(self, bucket: int) -> Rows:
        """Return the sample of a bucket's tokens, sorted by token and hash."""
        kept: Rows = np.empty(0, self.layout.record)
        for folder, progress in self._ranks:
            file = progress.buckets.get(bucket)
            if file is None:
                continue
            path = bucket_path(folder, bucket, file)
            of_rank = np.fromfile(path, self.layout.record, file.num_rows)
            kept = smallest(np.concatenate([kept, of_rank]), self.layout.per_token)
        return kept

    def __iter__(self) -> Iterator[Rows]:
        """Yield the sample of each bucket."""
        return map(self.rows, self.buckets)


def bucket_path(folder: Path, bucket: int, file: BucketFile) -> Path:
    """Return the path of a bucket's file in a rank's folder."""
    return folder / f"{bucket:06d}.{file.generation}.rows"


def rank_folder(work: Path, rank: int) -> Path:
    """Return the folder of a rank's part of the collection in `work`."""
    return work / f"rank-{rank:04d}"

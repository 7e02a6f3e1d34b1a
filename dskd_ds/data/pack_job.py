"""Packs a training text once, on MPI ranks, into shards that runs map into memory.

A part of a text is made in two stages: the rows of the sources become training documents, and
groups of 1,000 documents become blocks. Both write shards, whose division depends on the text only,
so the bytes are the same for any number of ranks. Every shard is written whole, so a killed job
goes on with the shards that are missing. commands/pack_text.py is what each rank runs.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from filelock import FileLock, Timeout
from tqdm import tqdm

from dskd_ds.data.arrow_shards import (
    ArrowShards,
    ShardRecord,
    groups_per_shard,
    is_written,
    read_records,
    shard_name,
    write_shard,
)
from dskd_ds.data.blocks import PACK_DOCUMENTS, nothing_left, preparation_lock
from dskd_ds.data.columns import checked_columns
from dskd_ds.data.documents import load_source
from dskd_ds.data.pack_groups import (
    NUM_DOCUMENTS,
    NUM_LOST,
    NUM_TOKENS,
    BlockGroups,
    DocumentGroups,
    chat_sources,
    print_left_out,
)
from dskd_ds.data.pack_origin import Origin, difference, origin_digest, origin_of, paths_of
from dskd_ds.data.packed import PackFacts, read_facts, refuse_lost_of
from dskd_ds.data.row_reader import RowReader
from dskd_ds.data.text_parts import TextPart
from dskd_ds.errors import InputError
from dskd_ds.files.atomic import replace_folder, write_text
from dskd_ds.files.hashes import file_sha256
from dskd_ds.files.manifest import MANIFEST_FILE, file_problem, store_manifest
from dskd_ds.runtime.mpi import Communicator

MADE_OF_FILE = "made_of"
"""In the folder of unfinished work: the digest of what it is made of."""
DOCUMENTS, BLOCKS, DIGESTS = "documents", "blocks", "digests"
"""Folders of unfinished work."""


class Groups(Protocol):
    """Rows in groups that are made one by one."""

    num_groups: int
    schema: pa.Schema

    def make(self, group: int, counts: Counter[str]) -> pa.RecordBatch:
        """Return the rows of a group, and count what is left out of it."""
        ...


class PackJob:
    """One rank's share of packing a part of a text."""

    def __init__(
        self, part: TextPart, tokenizer: Any, max_tokens: int | None, comm: Communicator
    ) -> None:
        """max_tokens: the longest row that the models read, for packing = "none"."""
        self._part, self._tokenizer, self._max_tokens = part, tokenizer, max_tokens
        self._comm = comm
        self._work = part.folder.with_name(f"{part.folder.name}.partial")

    def run(self) -> None:
        """Pack the part, unless that is done already, and print what it holds. Collective.

        Raises InputError if another job packs it, if its folder holds something else, or if too
        little is left of the text.
        """
        with _only_job(self._part.folder, is_first=self._comm.rank == 0):
            origin = origin_of(self._part, self._tokenizer, self._max_tokens)
            if self._is_packed(origin):
                self._compare_digests()
                return
            self._open_work(origin)
            started = time.monotonic()
            with self._part.errors_name_sources():
                facts = self._write(origin)
            if facts is not None:
                self._print(facts, time.monotonic() - started)
            self._comm.barrier()  # the next part may be looked for by all ranks now

    def _is_packed(self, origin: Origin) -> bool:
        """Return whether the folder holds the part as it is now. Collective.

        Raises InputError if the folder holds something else.
        """
        is_packed = False
        if self._comm.rank == 0:
            folder = self._part.folder
            if (folder / MANIFEST_FILE).is_file():
                facts, _ = read_facts(folder)
                is_packed = difference(facts["origin"], origin, paths_of(self._part)) is None
            elif folder.is_dir() and any(folder.iterdir()):
                raise InputError(
                    f"{folder}: this folder exists and holds no packed text.\n"
                    "  name another folder in [data] packed."
                )
        return self._comm.broadcast_flag_from_rank_0(is_packed)

    def _compare_digests(self) -> None:
        """Compare this rank's share of the packed files with their digests. Collective.

        Raises InputError that names a damaged file.
        """
        folder = self._part.folder
        _, files = read_facts(folder)
        for name in sorted(files)[self._comm.rank :: self._comm.size]:
            problem = file_problem(folder / name, files[name])
            if problem:
                raise InputError(f"{problem}.\n  delete {folder} and call this command again.")
        self._comm.barrier()
        if self._comm.rank == 0:
            print(f"{folder}: complete already; its files agree with their digests.")

    def _open_work(self, origin: Origin) -> None:
        """Make the folder of unfinished work; work for another text is thrown away. Collective."""
        digest, made_of = origin_digest(origin), self._work / MADE_OF_FILE
        is_of_this_text = made_of.is_file() and made_of.read_text(encoding="utf-8") == digest
        if self._comm.rank == 0 and not is_of_this_text:
            shutil.rmtree(self._work, ignore_errors=True)
            for name in (DOCUMENTS, BLOCKS, DIGESTS):
                (self._work / name).mkdir(parents=True)
            write_text(made_of, digest)
        self._comm.barrier()

    def _write(self, origin: Origin) -> PackFacts | None:
        """Do both stages; returns the facts of the packed part on rank 0. Collective."""
        self._add_digests(origin)
        reader = RowReader(self._part.data, self._tokenizer, self._max_tokens, is_stream=False)
        rows = DocumentGroups(reader, self._load_sources())
        num_shards = self._write_shards(rows, DOCUMENTS, "reading documents")
        of_rows = read_records(self._work / DOCUMENTS, num_shards)
        rows_of_shards = [record["rows"] for record in of_rows]
        documents = ArrowShards(self._work / DOCUMENTS, rows_of_shards)
        groups = BlockGroups(reader, documents, self._part.data.packing)
        num_shards = self._write_shards(groups, BLOCKS, "packing")
        if self._comm.rank > 0:  # from here on rank 0 moves and deletes files
            return None
        return self._finish(origin, of_rows, read_records(self._work / BLOCKS, num_shards))

    def _add_digests(self, origin: Origin) -> None:
        """Add the digests of all files to an origin; each rank reads its share. Collective."""
        folder = self._work / DIGESTS
        for number, path in enumerate(paths_of(self._part)):
            digest_file = folder / str(number)
            if number % self._comm.size == self._comm.rank and not digest_file.is_file():
                write_text(digest_file, file_sha256(path))
        self._comm.barrier()
        files = [file for of_source in origin["files"].values() for file in of_source]
        for number, file in enumerate(files):
            file["sha256"] = (folder / str(number)).read_text(encoding="utf-8")

    def _load_sources(self) -> list[Any]:
        """Load the sources; rank 0 first, which lets `datasets` convert them. Collective.

        Raises InputError if one cannot be loaded or lacks a column.
        """
        if self._comm.rank > 0:
            self._comm.barrier()
        loaded: list[Any] = []
        with preparation_lock():
            for index, source in enumerate(self._part.data.train):
                key = f"data.train.{index}"
                loaded.append(load_source(source, key, stream=False))
                checked_columns(loaded[-1], source, key)
        if self._comm.rank == 0:
            self._comm.barrier()
        return loaded

    def _write_shards(self, groups: Groups, name: str, title: str) -> int:
        """Write this rank's share of the missing shards; returns the number of all. Collective.

        name: folder of the shards. title: what the progress bar says.
        """
        comm, folder = self._comm, self._work / name
        per_shard = groups_per_shard(groups.num_groups)
        first_groups = range(0, groups.num_groups, per_shard)
        # Each shard has its rank, so that ranks need not agree on which shards are missing.
        own = range(comm.rank, len(first_groups), comm.size)
        missing = [number for number in own if not is_written(folder, number)]
        with tqdm(
            total=len(missing) * per_shard * PACK_DOCUMENTS,
            desc=f"{self._part.name}: {title}, ranks: {comm.size}",
            unit=" documents",
            disable=comm.rank > 0,
        ) as bar:
            for number in missing:
                first = first_groups[number]
                numbers = range(first, min(groups.num_groups, first + per_shard))
                counts: Counter[str] = Counter()
                batches = _made(groups, numbers, counts, bar)
                write_shard(folder, number, batches, groups.schema, counts)
        comm.barrier()
        return len(first_groups)

    def _finish(
        self, origin: Origin, of_rows: Sequence[ShardRecord], of_blocks: Sequence[ShardRecord]
    ) -> PackFacts:
        """Write the manifest and give the folder its name, on rank 0; returns its facts.

        Raises InputError if too little is left of the text.
        """
        part, folder = self._part, self._work / BLOCKS
        row_counts, counts = _sum_counts(of_rows), _sum_counts(of_blocks)
        print_left_out(part, row_counts, counts)
        facts = PackFacts(
            origin=origin,
            rows=[record["rows"] for record in of_blocks],
            num_tokens=counts[NUM_TOKENS],
            num_documents=counts[NUM_DOCUMENTS],
            num_lost=counts[NUM_LOST],
            chat_sources=chat_sources(part, row_counts),
        )
        if sum(facts["rows"]) == 0:
            num_documents = sum(record["rows"] for record in of_rows)
            in_rows = part.data.packing == "none"
            raise InputError(nothing_left(part.data, "train", num_documents, in_rows=in_rows))
        refuse_lost_of(part.data, facts)
        files = {shard_name(n): record["file"] for n, record in enumerate(of_blocks)}
        store_manifest(folder, dict(facts), files)
        for name in files:
            (folder / name).with_suffix(".json").unlink()
        replace_folder(folder, part.folder)
        shutil.rmtree(self._work)
        return facts

    def _print(self, facts: PackFacts, seconds: float) -> None:
        num_tokens, num_rows = facts["num_tokens"], sum(facts["rows"])
        unit = "blocks" if self._part.data.packing == "blocks" else "rows"
        print(
            f"{self._part.folder}: {num_tokens:,} tokens in {num_rows:,} {unit} and"
            f" {len(facts['rows'])} files, packed in {seconds:.1f} s, ranks: {self._comm.size}"
            f" ({num_tokens / seconds:,.0f} tokens per second)."
        )


def _made(
    groups: Groups, numbers: range, counts: Counter[str], bar: Any
) -> Iterator[pa.RecordBatch]:
    """Yield the groups with these numbers, and move the progress bar."""
    for number in numbers:
        yield groups.make(number, counts)
        bar.update(PACK_DOCUMENTS)


def _sum_counts(records: Sequence[ShardRecord]) -> Counter[str]:
    total: Counter[str] = Counter()
    for record in records:
        total.update(record["counts"])
    return total


@contextmanager
def _only_job(folder: Path, is_first: bool) -> Iterator[None]:
    """Keep other jobs from packing into a folder; rank 0 holds the lock for all ranks.

    Raises InputError if another job has the lock.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not is_first:
        yield
        return
    lock = FileLock(f"{folder}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{folder}: another `dskd data pack` is packing this text.\n"
            "  wait for it, or name another folder in [data] packed."
        ) from None
    try:
        yield
    finally:
        lock.release()

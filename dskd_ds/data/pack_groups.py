"""The two kinds of groups that packing makes, from their numbers; and what is counted meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from dskd_ds.data.arrow_shards import ArrowShards
from dskd_ds.data.block import DOCUMENT_COLUMNS
from dskd_ds.data.blocks import PACK_DOCUMENTS, block_features
from dskd_ds.data.documents import document_features
from dskd_ds.data.lost import count_lost_chats
from dskd_ds.data.packed import SourceCounts
from dskd_ds.data.row_reader import Columns, RowReader
from dskd_ds.data.tally import Tally
from dskd_ds.data.text_parts import TextPart
from dskd_ds.data.token_counts import count_tokens

NUM_TOKENS, NUM_DOCUMENTS, NUM_LOST = "tokens", "documents", "lost"
"""Names of counts of blocks."""
LEFT_OUT = "left out"
"""First word of counts by reason; a number names the source, or nothing for blocks."""


class DocumentGroups:
    """Training documents, made from groups of rows of the sources."""

    schema = document_features().arrow_schema

    def __init__(self, reader: RowReader, sources: Sequence[Any]) -> None:
        """sources: `datasets.Dataset` each."""
        self._reader, self._sources = reader, sources
        self.num_groups = -(-sum(map(len, sources)) // PACK_DOCUMENTS)

    def make(self, group: int, counts: Counter[str]) -> pa.RecordBatch:
        """Return the documents of a group; its rows may be of several sources."""
        start, stop = group * PACK_DOCUMENTS, (group + 1) * PACK_DOCUMENTS
        documents: Columns = {name: [] for name in DOCUMENT_COLUMNS}
        source_start = 0  # number of the source's first row among the rows of all sources
        for index, source in enumerate(self._sources):
            first, last = max(0, start - source_start), min(len(source), stop - source_start)
            source_start += len(source)
            if first < last:
                of_source = self._read(index, source[first:last], counts)
                for name, values in of_source.items():
                    documents[name] += values
        return pa.RecordBatch.from_pydict(documents, schema=self.schema)

    def _read(self, index: int, rows: Columns, counts: Counter[str]) -> Columns:
        """Return the training documents of some rows of a source."""
        tally = self._reader.source_tallies[index]
        tally.counts.clear()
        documents = self._reader.documents(index, rows)
        counts[f"rows {index}"] += len(next(iter(rows.values())))
        counts[f"readable {index}"] += len(documents["text"])
        counts.update({f"{LEFT_OUT} {index} {why}": n for why, n in tally.counts.items()})
        return self._reader.training_documents(documents)


class BlockGroups:
    """Blocks or rows, made from groups of training documents."""

    schema = block_features().arrow_schema

    def __init__(self, reader: RowReader, documents: ArrowShards, packing: str) -> None:
        self._reader, self._documents, self._packing = reader, documents, packing
        self.num_groups = -(-len(documents) // PACK_DOCUMENTS)

    def make(self, group: int, counts: Counter[str]) -> pa.RecordBatch:
        """Return the blocks of a group of documents."""
        start = group * PACK_DOCUMENTS
        rows = range(start, min(len(self._documents), start + PACK_DOCUMENTS))
        documents = self._documents.columns(rows)
        tally = self._reader.block_tally
        tally.counts.clear()
        blocks = self._reader.blocks(documents)
        batch = pa.RecordBatch.from_pydict(blocks, schema=self.schema)
        if self._packing == "blocks":
            num_documents, num_lost = count_lost_chats(documents, blocks)
        else:
            num_documents, num_lost = len(rows), len(rows) - len(batch)
        counts[NUM_TOKENS] += count_tokens(pa.Table.from_batches([batch]))
        counts[NUM_DOCUMENTS] += num_documents
        counts[NUM_LOST] += num_lost
        counts.update({f"{LEFT_OUT} {why}": n for why, n in tally.counts.items()})
        return batch


def chat_sources(part: TextPart, counts: Counter[str]) -> dict[str, SourceCounts]:
    """Return the counts of each source of conversations, from those of `DocumentGroups`."""
    found: dict[str, SourceCounts] = {}
    for index, source in enumerate(part.data.train):
        if source.format == "chat":
            num_rows = counts[f"rows {index}"]
            num_lost = num_rows - counts[f"readable {index}"]
            key = f"data.train.{part.first_source + index}"
            found[key] = SourceCounts(num_rows=num_rows, num_lost=num_lost)
    return found


def print_left_out(part: TextPart, of_rows: Counter[str], of_blocks: Counter[str]) -> None:
    """Print to stderr what was left out or cut, a line per source and one for the blocks."""
    for index, source in enumerate(part.data.train):
        name = f"[data.train.{part.first_source + index}] {source.path}"
        _print_tally(name, of_rows, prefix=f"{LEFT_OUT} {index} ")
    _print_tally("[data] train", of_blocks, prefix=f"{LEFT_OUT} ")


def _print_tally(name: str, counts: Counter[str], prefix: str) -> None:
    tally = Tally(name)
    for reason, count in counts.items():
        if reason.startswith(prefix):
            tally.counts[reason.removeprefix(prefix)] += count
    tally.print_counts()

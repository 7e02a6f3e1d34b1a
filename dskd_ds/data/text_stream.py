"""Reads the sources of a stream in groups of consecutive rows, from any group on.

Groups are numbered over all sources, and none has rows of two sources. A group's mark tells where
it begins, so that a resumed run need not read what comes before it. `datasets` finds the place: it
passes over whole files, and parses the rows before the place in the file that holds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

import pyarrow as pa

from dskd_ds.data.columns import checked_columns
from dskd_ds.data.documents import load_source
from dskd_ds.data.row_reader import Columns
from dskd_ds.spec.data import DataSpec


class Mark(TypedDict):
    """Where a group begins, as JSON."""

    group: int
    """Number of the group."""
    source: int
    """Index of its source in [data] train."""
    state: dict[str, Any] | None
    """State of the source's `datasets.IterableDataset`; None: at the beginning of the source."""


START: Mark = {"group": 0, "source": 0, "state": None}


@dataclass(frozen=True)
class RowGroup:
    """Consecutive rows of a source, not yet tokenised."""

    mark: Mark
    rows: pa.Table

    @property
    def number(self) -> int:
        """Number of the group in the stream."""
        return self.mark["group"]

    @property
    def source(self) -> int:
        """Index of its source in [data] train."""
        return self.mark["source"]

    def columns(self) -> Columns:
        """Return the rows as Python values."""
        import datasets

        # A Dataset decodes the column types that Arrow does not know.
        table = datasets.table.InMemoryTable(self.rows)
        columns: Columns = datasets.Dataset(table).to_dict()
        return columns


class TextStream:
    """The sources of [data] train as one stream of groups."""

    def __init__(self, data: DataSpec) -> None:
        """Raises InputError if a source cannot be opened, or lacks a column."""
        self._group_rows = data.stream_group_documents
        self._sources: list[Any] = []
        for index, source in enumerate(data.train):
            key = f"data.train.{index}"
            loaded = load_source(source, key, stream=True)
            checked_columns(loaded, source, key)
            # Rows of groups that another rank reads stay in Arrow's memory, which is cheap.
            self._sources.append(loaded.with_format("arrow"))

    def groups(self, start: Mark) -> Iterator[RowGroup]:
        """Yield the groups from a mark on. Raises what `datasets` raises for damaged text."""
        number, state = start["group"], start["state"]
        for index in range(start["source"], len(self._sources)):
            source = self._sources[index]
            # None would mean that a source which was read before begins where it was.
            source.load_state_dict(state)
            for rows in source.iter(batch_size=self._group_rows):
                yield RowGroup(Mark(group=number, source=index, state=state), rows)
                number += 1
                state = source.state_dict()
            state = None

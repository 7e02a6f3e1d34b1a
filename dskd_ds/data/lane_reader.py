"""Packs the groups of a stream's lanes: group g belongs to lane g modulo the number of lanes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from dskd_ds.data.block import Block
from dskd_ds.data.blocks import block_features
from dskd_ds.data.documents import short_reason
from dskd_ds.data.row_reader import RowReader
from dskd_ds.data.text_stream import Mark, RowGroup, TextStream
from dskd_ds.errors import DskdError, InputError


@dataclass(frozen=True)
class PackedGroup:
    """The blocks of a group, at least one."""

    mark: Mark
    blocks: pa.Table
    """In Arrow: as lists of Python numbers they would take eight times the memory."""

    def __len__(self) -> int:
        return len(self.blocks)

    def block(self, index: int) -> Block:
        """Return a block of the group."""
        row: Block = self.blocks.slice(index, 1).to_pylist()[0]
        return row


class LaneReader:
    """Reads a stream once, and packs the groups of some lanes. One thread may use it at a time."""

    def __init__(
        self, text: TextStream, reader: RowReader, num_lanes: int, starts: Mapping[int, Mark]
    ) -> None:
        """starts: lane -> mark of the first group that is wanted of it."""
        self._reader, self._num_lanes = reader, num_lanes
        self._first = {lane: mark["group"] for lane, mark in starts.items()}
        first_mark = min(starts.values(), key=_number)
        self._groups: Iterator[RowGroup] = text.groups(first_mark)
        # Lanes advance unequally, so a lane's rows can come before they are wanted.
        self._waiting: dict[int, deque[RowGroup]] = {lane: deque() for lane in starts}
        self._schema = block_features().arrow_schema
        self._failure: InputError | None = None

    def next_group(self, lane: int) -> PackedGroup | None:
        """Pack the lane's next group that gives a block; None at the end of the stream.

        Raises InputError if the text is damaged, then and at every later call.
        """
        if self._failure is not None:
            raise self._failure
        try:
            return self._pack_next(lane)
        except DskdError:
            raise
        except Exception as error:  # datasets raises a dozen unrelated classes
            self._failure = InputError(
                f"[data] stream = true, but the text cannot be read further: {short_reason(error)}"
                "\n  repair the source and start again: the run resumes from its last checkpoint."
            )
            raise self._failure from None

    def _pack_next(self, lane: int) -> PackedGroup | None:
        while (group := self._next_rows(lane)) is not None:
            documents = self._reader.documents(group.source, group.columns())
            kept = self._reader.training_documents(documents)
            blocks = pa.Table.from_pydict(self._reader.blocks(kept), schema=self._schema)
            if len(blocks) > 0:
                return PackedGroup(group.mark, blocks)
        return None

    def _next_rows(self, lane: int) -> RowGroup | None:
        """Return the lane's next group of rows, and keep what is read of the others until then."""
        own = self._waiting[lane]
        while not own:
            group = next(self._groups, None)
            if group is None:
                return None
            its_lane = group.number % self._num_lanes
            if its_lane in self._waiting and group.number >= self._first[its_lane]:
                self._waiting[its_lane].append(group)
        return own.popleft()


def _number(mark: Mark) -> int:
    return mark["group"]

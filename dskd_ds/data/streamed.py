"""The training blocks of a stream: lanes that are packed alone, so that a rank packs only its own.

A stream has as many lanes as a step has blocks. Place p of the global order is the next block of
lane p modulo the number of lanes, so a step takes one block of every lane, and the lanes of a rank
stay the same. The order does not depend on the number of ranks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypedDict

from dskd_ds.data.batches import Sample
from dskd_ds.data.block import Block
from dskd_ds.data.lane_reader import LaneReader, PackedGroup
from dskd_ds.data.text_stream import START, Mark
from dskd_ds.errors import InputError

OpenReader = Callable[[Mapping[int, Mark]], LaneReader]
"""From the mark of the first wanted group of each lane to a reader of these lanes."""


class Position(TypedDict):
    """Where a group of a lane lies in the lane, as JSON."""

    first_block: int
    """The lane's block, counted from 0, that is the first of the group."""
    mark: Mark


class Lane:
    """One lane: its present group, and where its last groups began."""

    def __init__(self, start: Position) -> None:
        self.positions: deque[Position] = deque([start])
        """The groups that a checkpoint may need, ascending; the last one is the present group."""
        self.group: PackedGroup | None = None

    @property
    def end(self) -> int:
        """The lane's block that follows the present group."""
        return self.positions[-1]["first_block"] + (len(self.group) if self.group else 0)

    def enter(self, group: PackedGroup) -> None:
        """Go on to the next group."""
        position = Position(first_block=self.end, mark=group.mark)
        if self.group is None:  # the start told where to read, not which group has a block
            self.positions.clear()
        self.positions.append(position)
        self.group = group

    def forget_before(self, block: int) -> None:
        """Forget positions that are needed for earlier blocks only."""
        while len(self.positions) > 1 and self.positions[1]["first_block"] <= block:
            self.positions.popleft()


class StreamedBlocks:
    """The blocks of a stream, by place; the places of a lane must ascend.

    The text ends at different steps for different lanes: the shortest lane of all ranks ends the
    run, because all ranks agree on errors before they train a step. A thread packs one group per
    lane ahead.
    """

    def __init__(
        self, open_reader: OpenReader, lanes: Sequence[int], num_lanes: int, keep_steps: int
    ) -> None:
        """lanes: those of this rank. num_lanes: blocks of one optimiser step, over all ranks.

        keep_steps: how many steps before the one that is read a checkpoint may be of.
        """
        self._open_reader, self._own_lanes = open_reader, list(lanes)
        self._num_lanes, self._keep_steps = num_lanes, keep_steps
        self._stored: dict[int, list[Position]] = {}
        self._reader: LaneReader | None = None
        self._lanes: dict[int, Lane] = {}
        self._ahead: dict[int, Future[PackedGroup | None]] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stream")

    def get(self, place: int) -> tuple[Sample, Block]:
        """See BlockSource. Raises InputError if the lane ends or its text is damaged."""
        step, number = divmod(place, self._num_lanes)
        if self._reader is None:
            self._start(step)
        lane = self._lanes[number]
        assert step >= lane.positions[-1]["first_block"], "a stream cannot go back"
        while lane.group is None or step >= lane.end:
            group = self._ahead[number].result()
            if group is None:
                raise InputError(self._end_of_text(number, lane.end))
            lane.enter(group)
            self._read_ahead(number)
        lane.forget_before(step - self._keep_steps)
        index = step - lane.positions[-1]["first_block"]
        return Sample(0, place), lane.group.block(index)

    def close(self) -> None:
        """Stop reading ahead."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def state_dict(self) -> dict[str, Any]:
        """Return where this rank's lanes are; see Stateful in student/run_state.py."""
        if self._reader is None:
            return {"lanes": _with_names(self._stored)}
        positions = {number: list(lane.positions) for number, lane in self._lanes.items()}
        return {"lanes": _with_names(positions)}

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Take the lanes of all ranks; see Stateful. Call it before the first block is read."""
        assert self._reader is None, "the stream is being read"
        stored = (item for state in states for item in state["lanes"].items())
        self._stored = {int(name): positions for name, positions in stored}

    def _start(self, step: int) -> None:
        """Begin to read where the lanes are at a step.

        Raises InputError for a later step than the first without stored positions.
        """
        self._lanes = {number: Lane(self._position(number, step)) for number in self._own_lanes}
        starts = {number: lane.positions[0]["mark"] for number, lane in self._lanes.items()}
        self._reader = self._open_reader(starts)
        for number in self._own_lanes:  # all present groups are packed before any next one
            self._read_ahead(number)

    def _position(self, number: int, step: int) -> Position:
        """Return the position of the group that holds a lane's block for a step."""
        if step == 0:
            # Where the lane's first group begins is not known yet: it is read from the start.
            return Position(first_block=0, mark=START)
        before = [p for p in self._stored.get(number, []) if p["first_block"] <= step]
        if not before:
            raise InputError(
                "[data] stream = true, but the checkpoint does not say where the stream is: it was"
                " saved by a version that read streams in another order.\n"
                "  start a new run with another run_dir, or go on with the version that saved it."
            )
        return before[-1]

    def _read_ahead(self, number: int) -> None:
        assert self._reader is not None
        self._ahead[number] = self._thread.submit(self._reader.next_group, number)

    def _end_of_text(self, number: int, num_blocks: int) -> str:
        return (
            f"[data] stream = true, but the text ends after {num_blocks} steps: lane {number} of"
            f" {self._num_lanes} has no more of it.\n"
            "  lower [train] num_steps, name more text, or lower [data] stream_group_documents in a"
            " new run."
        )


def _with_names(positions: Mapping[int, Sequence[Position]]) -> dict[str, Sequence[Position]]:
    """Return positions by the lane's number as a string, as JSON's keys must be."""
    return {str(number): of_lane for number, of_lane in positions.items()}

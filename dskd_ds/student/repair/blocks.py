"""Which layers of a cut student are repaired, from which state of the teacher to which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RepairBlock:
    """A layer of the student that is repaired.

    States of the teacher are counted by layer outputs: 0 is the embeddings, k the state after the
    k-th layer.
    """

    layer: int
    """Number of the student's layer, from 0."""
    reads: int
    """The teacher's state that is its input."""
    gives: int
    """The teacher's state that it learns to give."""


def repair_blocks(
    kept: Sequence[int], num_teacher_layers: int, side: Literal["after", "before"]
) -> list[RepairBlock]:
    """Return the layers to repair, by ascending layer of the student; each comes once.

    kept: the teacher's layers that the student has, from 0, ascending. A layer between two gaps
    serves one of them: with `after` the gap in front of it.
    """
    # The state of the teacher that each kept layer should read, if the student had no gaps before
    # it, and the state that the next kept layer expects.
    ends = [0, *(layer + 1 for layer in kept)]
    starts = [*kept, num_teacher_layers]
    blocks: dict[int, RepairBlock] = {}
    for gap, (end, start) in enumerate(zip(ends, starts, strict=True)):
        if end == start:
            continue
        # The gap is between the student's layers gap - 1 and gap.
        is_after = gap < len(kept) and (side == "after" or gap == 0)
        if is_after:
            block = RepairBlock(layer=gap, reads=end, gives=kept[gap] + 1)
        else:
            block = RepairBlock(layer=gap - 1, reads=kept[gap - 1], gives=start)
        blocks.setdefault(block.layer, block)
    return [blocks[layer] for layer in sorted(blocks)]


def teacher_layers(blocks: Sequence[RepairBlock]) -> tuple[int, ...]:
    """Return the teacher's states that the repair needs, ascending, each once."""
    return tuple(sorted({state for block in blocks for state in (block.reads, block.gives)}))

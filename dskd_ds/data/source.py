"""Opens the training blocks of a spec: mapped, packed or streamed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from dskd_ds.data.batches import BlocksByEpoch, BlockSource, MappedBlocks, places
from dskd_ds.data.block import Blocks
from dskd_ds.data.blocks import train_blocks, train_rows
from dskd_ds.data.lane_reader import LaneReader
from dskd_ds.data.mixture import WeightedBlocks, WeightedSource
from dskd_ds.data.packed import PackedBlocks, open_packed
from dskd_ds.data.row_reader import RowReader
from dskd_ds.data.streamed import StreamedBlocks
from dskd_ds.data.text_parts import TextPart, text_parts
from dskd_ds.data.text_stream import TextStream
from dskd_ds.data.token_counts import count_tokens_of
from dskd_ds.spec import RunSpec
from dskd_ds.spec.data import DataSpec

KEPT_STEPS = 2
"""A checkpoint is of a step at most this many before the one that the feed reads, not counting
[link] prefetch_depth."""


def open_source(
    data: DataSpec,
    tokenizer: Any,
    *,
    seed: int,
    step_blocks: int,
    max_tokens: int | None = None,
    lanes: Sequence[int] | None = None,
    keep_steps: int = KEPT_STEPS,
) -> BlockSource:
    """Open the training blocks, or with packing = "none" the rows, mapped or streamed.

    seed: the order of mapped blocks. step_blocks: blocks of one optimiser step, over all ranks.
    max_tokens: the longest row that the models read; None: rows of any length.
    lanes: the places of this rank in the first step (`lanes_of`), the only ones that a stream
    serves of every step; None: all.
    keep_steps: how many steps before the one that is read a checkpoint of a stream may be of.
    Raises InputError if there is not one block, if the text cannot be read, or if it is packed and
    has changed since.
    """
    if data.stream:
        reader = RowReader(data, tokenizer, max_tokens, is_stream=True)
        return StreamedBlocks(
            partial(LaneReader, TextStream(data), reader, step_blocks),
            lanes=range(step_blocks) if lanes is None else lanes,
            num_lanes=step_blocks,
            keep_steps=keep_steps,
        )
    parts = text_parts(data)
    blocks = [_open_part(part, tokenizer, max_tokens) for part in parts]
    if data.is_weighted:
        return WeightedBlocks([_weighted(*pair) for pair in zip(parts, blocks, strict=True)], seed)
    if data.epoch_files > 1:
        return BlocksByEpoch(blocks, seed)
    return MappedBlocks(blocks[0], seed)


def open_blocks(data: DataSpec, tokenizer: Any) -> Any:
    """Return the blocks of the training text, at epoch 0, as a `datasets.Dataset`.

    They are those that a run without weights trains on, so they may be packed. With weights, or
    with packing = "none", they are made anew.
    """
    can_be_packed = data.packing == "blocks" and not data.is_weighted
    if data.packed is None or not can_be_packed:
        return train_blocks(data.of_epoch(0), tokenizer)
    return open_packed(text_parts(data)[0], tokenizer, max_tokens=None).as_dataset()


def _open_part(part: TextPart, tokenizer: Any, max_tokens: int | None) -> Blocks:
    """Return the blocks of a part of the text, packed or made now."""
    if part.data.packed is not None:
        return open_packed(part, tokenizer, max_tokens)
    with part.errors_name_sources():
        blocks: Blocks = train_rows(part.data, tokenizer, max_tokens)
        return blocks


def _weighted(part: TextPart, blocks: Blocks) -> WeightedSource:
    """Return a source with its weight. part: of this source alone."""
    weight = part.data.train[0].weight
    assert weight is not None  # a rule of the spec
    if isinstance(blocks, PackedBlocks):
        return WeightedSource(blocks, blocks.num_tokens, weight)
    return WeightedSource(blocks, count_tokens_of(blocks), weight)


def lanes_of(spec: RunSpec, rank: int) -> list[int]:
    """Return the places of a rank in the first step, which are its lanes of a stream."""
    micros = range(spec.num_accumulation_steps)
    return [place for micro in micros for place in places(spec, 0, micro, rank)]


def num_steps(spec: RunSpec, source: BlockSource) -> int:
    """Return the number of optimiser steps of the run; epochs are rounded down to whole steps."""
    if spec.train.num_steps is not None:
        return spec.train.num_steps
    # The spec requires num_steps for a stream, whose length is unknown.
    assert isinstance(source, MappedBlocks | BlocksByEpoch | WeightedBlocks)
    assert spec.train.num_epochs is not None
    num_blocks = source.num_blocks(spec.train.num_epochs)
    return max(1, int(num_blocks / spec.train.global_batch_blocks))

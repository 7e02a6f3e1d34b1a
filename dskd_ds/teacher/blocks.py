"""Forward passes of one block each, so that a reply does not depend on what is asked with it.

Sums round differently in a forward pass of another shape. Here every shape follows from the block
alone: its row goes through the trunk without the padding behind it, and logits are formed for whole
groups of rows that begin at multiples of the group's size. So a position's signal is the same bits
in any request, and may be kept and put together with others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dskd_ds.link.messages import Wanted
from dskd_ds.losses.distributions import TopK
from dskd_ds.models.frozen import FrozenModel
from dskd_ds.models.vocab_shard import VocabShard
from dskd_ds.signals.block_rows import unpadded_length
from dskd_ds.signals.parts.chunks import concatenate
from dskd_ds.signals.parts.draws import Draws, take_draws
from dskd_ds.signals.parts.shards import take_draws_at, take_top_k_at
from dskd_ds.teacher.out_of_memory import explained_logits, explained_states


@dataclass(frozen=True)
class AskedAt:
    """Where the parts of a reply are asked for, as masks [B, T]."""

    ranked: Tensor
    """A top k."""
    drawn: Tensor
    """Draws."""
    hidden: Tensor
    """A hidden state."""


@dataclass(frozen=True)
class GroupRows:
    """How many rows are computed together; both numbers decide how sums round."""

    logits: int
    """Rows whose logits exist at a time."""
    parts: int
    """Rows that parts are taken from at a time."""


@dataclass(frozen=True)
class _Block:
    """One block of a request."""

    input_ids: Tensor
    """[L]"""
    position_ids: Tensor
    """[L]"""
    is_ranked: Tensor
    """[L]"""
    is_drawn: Tensor
    """[L]"""


@torch.inference_mode()
def forward_blocks(
    teacher: FrozenModel,
    input_ids: Tensor,
    position_ids: Tensor,
    asked: AskedAt,
    wanted: Wanted,
    group_rows: GroupRows,
) -> tuple[Tensor, TopK, Draws]:
    """Return states [B * T, D], and the top k and draws at the positions that are asked for.

    input_ids, position_ids: [B, T]. States of padding are zero.
    """
    num_rows, width = input_ids.shape
    states = teacher.head.new_zeros(num_rows, width, teacher.hidden_size)
    top_k: list[TopK] = []
    draws: list[Draws] = []
    for row in range(num_rows):
        block = _block(input_ids[row], position_ids[row], asked, row)
        of_block = explained_states(teacher, block.input_ids[None], block.position_ids[None])[0]
        states[row, : len(of_block)] = of_block
        for ranked, drawn in _take(teacher, block, of_block, wanted, group_rows):
            top_k.append(ranked)
            draws.append(drawn)
    if not top_k:
        nothing = teacher.logits(states[0, :0])
        top_k = [take_top_k_at(nothing, wanted.top_k, wanted.temperatures, teacher.shard)]
        draws = [_no_draws(wanted)]
    return states.flatten(0, 1), concatenate(top_k), concatenate(draws)


def _block(input_ids: Tensor, position_ids: Tensor, asked: AskedAt, row: int) -> _Block:
    """Return one row of a request, without its padding."""
    length = unpadded_length(input_ids.numpy(), position_ids.numpy())
    is_asked = asked.ranked[row] | asked.drawn[row] | asked.hidden[row]
    if bool(is_asked[length:].any()):  # text that looks like padding
        length = len(input_ids)
    return _Block(
        input_ids=input_ids[:length],
        position_ids=position_ids[:length],
        is_ranked=asked.ranked[row, :length],
        is_drawn=asked.drawn[row, :length],
    )


def _take(
    teacher: FrozenModel, block: _Block, states: Tensor, wanted: Wanted, group_rows: GroupRows
) -> Iterator[tuple[TopK, Draws]]:
    """Yield the top k and draws of one block, group by group; parts are taken at every row of a
    group, of which those asked for are kept.

    states: [L, D].
    """
    uniforms = _uniforms(block, wanted)
    is_asked = block.is_ranked | block.is_drawn
    for start in range(0, len(states), group_rows.logits):
        rows = slice(start, start + group_rows.logits)
        if not bool(is_asked[rows].any()):
            continue
        with explained_logits(len(states[rows])):
            logits = teacher.logits(states[rows])
            for begin in range(0, len(logits), group_rows.parts):
                end = min(begin + group_rows.parts, len(logits))
                group = slice(start + begin, start + end)
                if not bool(is_asked[group].any()):
                    continue
                some = logits[begin:end]
                yield (
                    _ranked_rows(some, block.is_ranked[group], wanted, teacher.shard),
                    _drawn_rows(
                        some,
                        is_asked=block.is_drawn[group],
                        uniforms=uniforms[group],
                        wanted=wanted,
                        shard=teacher.shard,
                    ),
                )


def _ranked_rows(
    logits: Tensor, is_asked: Tensor, wanted: Wanted, shard: VocabShard | None
) -> TopK:
    """Return the top k of the rows that are asked for, computed at all rows."""
    rows = logits if bool(is_asked.any()) else logits[:0]
    top_k = take_top_k_at(rows, wanted.top_k, wanted.temperatures, shard)
    return top_k.rows(is_asked[: len(rows)].to(logits.device))


def _drawn_rows(
    logits: Tensor,
    is_asked: Tensor,
    uniforms: Tensor,
    wanted: Wanted,
    shard: VocabShard | None,
) -> Draws:
    """Return the draws of the rows that are asked for, computed at all rows."""
    if not bool(is_asked.any()):
        return _no_draws(wanted)
    return take_draws_at(logits, wanted.draw_temperature, uniforms, shard).rows(is_asked)


def _no_draws(wanted: Wanted) -> Draws:
    """Return draws at no positions."""
    no_uniforms = torch.zeros(0, wanted.num_draws, dtype=torch.float64)
    return take_draws(torch.zeros(0, 1), wanted.draw_temperature, no_uniforms)


def _uniforms(block: _Block, wanted: Wanted) -> Tensor:
    """Return [L, draws] float64: the same for a block and seed, wherever draws are asked for."""
    num_draws = wanted.num_draws if bool(block.is_drawn.any()) else 0
    digest = hashlib.blake2b(str(wanted.draw_seed).encode(), digest_size=7)
    for values in (block.input_ids, block.position_ids):
        digest.update(values.numpy().astype("<i4").tobytes())
    generator = torch.Generator().manual_seed(int.from_bytes(digest.digest(), "little"))
    shape = (len(block.input_ids), num_draws)
    return torch.rand(shape, dtype=torch.float64, generator=generator)

"""Answers a request: forward passes, then the parts of the reply that the request names.

The teacher never learns which kind of signal the run uses (signals/kind.py): a request names the
positions of each part. Everything a reply depends on is in the request, so that any identical
teacher answers it bit for bit the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dskd_ds.link.messages import Array, Wanted
from dskd_ds.losses.distributions import TopK
from dskd_ds.models.captured import captured_states, rows_at_layers
from dskd_ds.models.frozen import FrozenModel
from dskd_ds.senses.choose.on_teacher import NO_SENSES, TeacherSenses
from dskd_ds.signals.parts.chosen import chosen_arrays
from dskd_ds.signals.parts.chunks import concatenate
from dskd_ds.signals.parts.draws import Draws
from dskd_ds.signals.parts.measured import MeasuredSenses, measured_arrays
from dskd_ds.signals.parts.shards import take_draws_at, take_top_k_at
from dskd_ds.signals.reply import ReplyParts, reply_arrays
from dskd_ds.teacher.blocks import AskedAt, GroupRows, forward_blocks
from dskd_ds.teacher.group_channel import SharedRequest, without_senses
from dskd_ds.teacher.out_of_memory import explained_logits, explained_states
from dskd_ds.teacher.senses import AskedSenses, asked_senses

CACHE_ROWS = 16
"""Rows that parts are taken from at a time on a CPU. At 49,152 tokens one thread took 0.18 ms per
position for 50 draws and 0.22 for the top 64, against 0.85 and 0.33 from 128 rows, which do not fit
the cache (best of 4)."""


@dataclass(frozen=True)
class Asked:
    """The checked tensors of a request, on the CPU."""

    input_ids: Tensor
    """[B, T] int64"""
    position_ids: Tensor
    """[B, T] int64"""
    top_k: Tensor
    """[K] int64: positions with a top k, ascending; positions count through the flat B * T."""
    draws: Tensor
    """[S] int64"""
    hidden: Tensor
    """[P] int64"""
    layers: Tensor
    """[M] int64: positions with states of the wanted layers."""


@dataclass(frozen=True)
class Computed:
    """What a forward pass gave, in main memory. What is left to do does not need the model."""

    arrays: dict[str, Array]
    """The reply's arrays, without chosen senses and candidates."""
    wanted: Wanted
    asked: AskedSenses | None
    """The senses that are wanted; None: no senses."""
    states: Tensor
    """[Q, D] at the sense positions."""
    top_k: TopK
    """At the sense positions."""
    term_states: Mapping[int, Tensor]
    """[N, D] after each layer that candidates are wanted for, where a target is, unrounded."""


def answer(
    teacher: FrozenModel,
    arrays: dict[str, Array],
    wanted: Wanted,
    senses: TeacherSenses = NO_SENSES,
) -> dict[str, Array]:
    """Return one request's reply: `compute`, then `finish`."""
    return finish(compute(teacher, arrays, wanted, senses))


def compute(
    teacher: FrozenModel,
    arrays: dict[str, Array],
    wanted: Wanted,
    senses: TeacherSenses = NO_SENSES,
    share: Callable[[SharedRequest], None] | None = None,
) -> Computed:
    """Do one forward pass of the request's shape, or one per row, and take the parts, all but the
    senses.

    senses: for requests that want senses chosen. share: called once the request is known to be
    valid, with what the other ranks of this teacher must compute at the same time. Raises
    ValueError if ids or positions are out of range, positions do not ascend, or the request wants
    senses or layers that this teacher does not have.
    """
    asked = read_request(arrays, teacher.vocab_size)
    if wanted.by_block and (wanted.layers or wanted.candidates):
        raise ValueError("states of layers and candidates are not sent block by block")
    to_choose = asked_senses(senses, arrays, wanted, asked.input_ids, asked.position_ids)
    sense_positions = to_choose.positions if to_choose else torch.zeros(0, dtype=torch.long)
    # Senses are chosen by the top k too, wherever the divergence gets its signal from.
    ranked_positions = torch.unique(torch.cat([asked.top_k, sense_positions]))
    term_layers = {one.layer for one in wanted.candidates}
    with captured_states(teacher.trunk, sorted({*wanted.layers, *term_layers})) as captured:
        if share is not None:
            share(without_senses(arrays, wanted, ranked_positions.numpy()))
        if wanted.by_block:
            hidden, ranked, draws = _forward_blocks(teacher, asked, ranked_positions, wanted)
        else:
            generator = _generator(arrays, wanted)
            hidden, ranked, draws = _forward_together(
                teacher, asked, ranked_positions, wanted, generator
            )
    at_senses = torch.searchsorted(ranked_positions, sense_positions)
    top_k = ranked
    if len(ranked_positions) != len(asked.top_k):
        is_asked = torch.isin(ranked_positions, asked.top_k)
        top_k = ranked.rows(is_asked.to(ranked.ids.device))
    parts = ReplyParts(top_k, draws, hidden[asked.hidden.to(hidden.device)])
    if wanted.layers:
        at_layers = rows_at_layers(captured, wanted.layers, asked.layers)
        parts = replace(parts, layers=at_layers)
    return Computed(
        arrays=reply_arrays(parts, wanted, teacher.vocab_size),
        wanted=wanted,
        asked=to_choose,
        states=hidden[sense_positions.to(hidden.device)].cpu(),
        top_k=ranked.rows(at_senses.to(ranked.ids.device)).to(torch.device("cpu")),
        term_states=_states_with_target(captured, sorted(term_layers), to_choose),
    )


def _states_with_target(
    captured: Mapping[int, Tensor], layers: Sequence[int], asked: AskedSenses | None
) -> dict[int, Tensor]:
    """Return the states [N, D] after some layers where a target is, on the CPU."""
    if asked is None or not layers:
        return {}
    at_layers = rows_at_layers(captured, layers, asked.batch.supervised).cpu()
    return dict(zip(layers, at_layers, strict=True))


def finish(computed: Computed) -> dict[str, Array]:
    """Return the reply's arrays with the senses that were wanted.

    Raises ValueError if candidates are wanted near states that are not finite.
    """
    asked, wanted = computed.asked, computed.wanted
    if asked is None:
        return computed.arrays
    found: dict[str, Array] = {}
    if asked.retriever is not None and asked.selection is not None:
        chosen = asked.retriever.choose(
            asked.selection,
            computed.states,
            computed.top_k,
            len(wanted.temperatures) - 1,  # the last tail is at temperature 1
        )
        found |= chosen_arrays(chosen, asked.retriever.wanted)
    candidates: list[MeasuredSenses] = []
    for form, retriever in zip(wanted.candidates, asked.terms, strict=True):
        states = computed.term_states[form.layer]
        # Nothing is nearest to such a state, and no check of the student would say why.
        if not states.isfinite().all():
            raise ValueError(f"the teacher's states after layer {form.layer} are not finite")
        candidates.append(retriever.choose(asked.batch, states))
    found |= measured_arrays(candidates, wanted.candidates)
    return computed.arrays | found


def read_request(arrays: dict[str, Array], vocab_size: int) -> Asked:
    """Check a request's arrays. Raises ValueError for what is out of range or does not ascend."""
    input_ids = torch.tensor(arrays["input_ids"], dtype=torch.long)
    position_ids = torch.tensor(arrays["position_ids"], dtype=torch.long)
    _check_range("input_ids", input_ids, vocab_size)
    if position_ids.shape != input_ids.shape:
        raise ValueError(
            f"position_ids {tuple(position_ids.shape)} and input_ids {tuple(input_ids.shape)}"
            " differ in shape"
        )
    # A document lies within its row. On a GPU a position beyond a table would end the process.
    _check_range("position_ids", position_ids, input_ids.shape[1])
    limit = input_ids.numel()
    return Asked(
        input_ids=input_ids,
        position_ids=position_ids,
        top_k=_positions(arrays, "top_k_positions", limit),
        draws=_positions(arrays, "draw_positions", limit),
        hidden=_positions(arrays, "hidden_positions", limit),
        layers=_positions(arrays, "layer_positions", limit),
    )


def _forward_together(
    teacher: FrozenModel,
    asked: Asked,
    ranked_positions: Tensor,
    wanted: Wanted,
    generator: torch.Generator,
) -> tuple[Tensor, TopK, Draws]:
    """Do one forward pass of all rows; return states [B * T, D], top k and draws where asked."""
    hidden = explained_states(teacher, asked.input_ids, asked.position_ids).flatten(0, 1)
    # For all positions at once, so that the size of chunks does not change what is drawn.
    shape = (len(asked.draws), wanted.num_draws)
    uniforms = torch.rand(shape, dtype=torch.float64, generator=generator)
    ranked, draws = _take(teacher, hidden, ranked_positions, asked.draws, uniforms, wanted)
    return hidden, ranked, draws


def _forward_blocks(
    teacher: FrozenModel,
    asked: Asked,
    ranked_positions: Tensor,
    wanted: Wanted,
) -> tuple[Tensor, TopK, Draws]:
    """Do a forward pass per row (teacher/blocks.py); return what `_forward_together` does."""
    shape = asked.input_ids.shape
    masks = (
        torch.zeros(shape.numel(), dtype=torch.bool).index_fill_(0, positions, True).view(shape)
        for positions in (ranked_positions, asked.draws, asked.hidden)
    )
    return forward_blocks(
        teacher,
        asked.input_ids,
        asked.position_ids,
        AskedAt(*masks),
        wanted,
        GroupRows(
            logits=teacher.head_chunk_rows,
            parts=CACHE_ROWS if teacher.device.type == "cpu" else teacher.head_chunk_rows,
        ),
    )


def _take(
    teacher: FrozenModel,
    hidden: Tensor,
    ranked_positions: Tensor,
    draw_positions: Tensor,
    uniforms: Tensor,
    wanted: Wanted,
) -> tuple[TopK, Draws]:
    """Take top k and draws from the logits at their positions, some rows at a time.

    hidden: [B * T, D]. uniforms: [S, draws], one row per draw position.
    """
    top_k: list[TopK] = []
    draws: list[Draws] = []
    # Both parts are taken from the same logits, so a position that is in both is computed once.
    positions = torch.unique(torch.cat([ranked_positions, draw_positions]))
    for chunk in positions.split(teacher.head_chunk_rows):
        with explained_logits(len(chunk)):
            logits = teacher.logits(hidden[chunk.to(hidden.device)])
            num_rows = CACHE_ROWS if logits.device.type == "cpu" else len(chunk)
            for rows, some in zip(chunk.split(num_rows), logits.split(num_rows), strict=True):
                ranked = _rows_where(some, torch.isin(rows, ranked_positions))
                top_k.append(
                    take_top_k_at(ranked, wanted.top_k, wanted.temperatures, teacher.shard)
                )
                drawn = _rows_where(some, torch.isin(rows, draw_positions))
                row_uniforms = uniforms[torch.isin(draw_positions, rows)]
                draws.append(
                    take_draws_at(drawn, wanted.draw_temperature, row_uniforms, teacher.shard)
                )
    return concatenate(top_k), concatenate(draws)


def _rows_where(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the rows of a mask, without a copy if that is all of them."""
    return logits if bool(mask.all()) else logits[mask]


def _generator(arrays: dict[str, Array], wanted: Wanted) -> torch.Generator:
    """Return a generator seeded with the request's content: every teacher draws the same."""
    digest = hashlib.blake2b(str(wanted.draw_seed).encode(), digest_size=7)
    for name in ("input_ids", "position_ids", "draw_positions"):
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return torch.Generator().manual_seed(int.from_bytes(digest.digest(), "little"))


def _positions(arrays: dict[str, Array], name: str, limit: int) -> Tensor:
    """Return the positions of one part. Raises ValueError if they are invalid."""
    positions = torch.tensor(arrays[name], dtype=torch.long)
    _check_range(name, positions, limit)
    if (positions.diff() <= 0).any():
        raise ValueError(f"{name} do not ascend")
    return positions


def _check_range(name: str, values: Tensor, limit: int) -> None:
    """Raise ValueError unless all values are within 0..limit - 1."""
    if values.numel() and not (int(values.min()) >= 0 and int(values.max()) < limit):
        raise ValueError(f"{name} has values outside 0..{limit - 1}")

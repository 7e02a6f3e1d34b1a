"""The parts of one reply and their arrays (link/messages.py): teachers write, students check."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from dskd_ds.link.messages import Array, Wanted
from dskd_ds.losses.distributions import TopK
from dskd_ds.signals.parts.chosen import UNWANTED, Chosen, chosen_arrays, read_chosen
from dskd_ds.signals.parts.draws import Draws, draw_arrays, read_draws
from dskd_ds.signals.parts.layers import layer_arrays, no_layers, read_layers
from dskd_ds.signals.parts.measured import (
    MeasuredSenses,
    measured_arrays,
    read_measured,
    widest,
)
from dskd_ds.signals.parts.states import pack_hidden, read_states
from dskd_ds.signals.parts.top_k import read_top_k, top_k_arrays
from dskd_ds.signals.widths import (
    HEADER_BYTES,
    candidates_bytes,
    chosen_bytes,
    most_draws_bytes,
    states_bytes,
    top_k_bytes,
)


@dataclass(frozen=True)
class ReplyParts:
    """All that a reply holds, each part at its own positions."""

    top_k: TopK
    draws: Draws
    hidden: Tensor
    """[P, D]"""
    chosen: Chosen = field(default_factory=Chosen.nothing)
    """Senses at Q positions, if the teacher chooses them."""
    layers: Tensor | None = None
    """[layers, M, D]: states after the layers that the request names; None if it names none."""
    candidates: tuple[MeasuredSenses, ...] = ()
    """Senses at N positions, one per set of candidates that the request names."""


@dataclass(frozen=True)
class ReplyShape:
    """What a reply must have, as its request asked."""

    vocab_size: int
    hidden_size: int
    num_top_k: int
    """Positions with a top k."""
    num_drawn: int
    """Positions with draws."""
    num_hidden: int
    """Positions with hidden states."""
    num_chosen: int = 0
    """Positions at which the teacher chooses senses."""
    num_at_layers: int = 0
    """Positions with states of the wanted layers."""
    num_with_candidates: int = 0
    """Positions with candidates, if the request wants any: those with a target."""


def reply_arrays(parts: ReplyParts, wanted: Wanted, vocab_size: int) -> dict[str, Array]:
    """Return the arrays of a reply. Those of parts that are found later may still have 0 rows."""
    numbers, scales = pack_hidden(parts.hidden, wanted.hidden_format)
    layers = no_layers(parts.hidden) if parts.layers is None else parts.layers
    return {
        **top_k_arrays(parts.top_k, vocab_size),
        **draw_arrays(parts.draws, wanted.num_draws, vocab_size),
        "hidden": numbers,
        "hidden_scales": scales,
        **layer_arrays(layers, wanted),
        **chosen_arrays(parts.chosen, wanted.senses or UNWANTED),
        **measured_arrays(parts.candidates, wanted.candidates[: len(parts.candidates)]),
    }


def read_reply(arrays: dict[str, Array], wanted: Wanted, shape: ReplyShape) -> ReplyParts:
    """Return the parts of a reply, on the CPU.

    Buffers that torch can use as they are stay where they are. Raises ValueError if shapes or
    values do not fit what was asked.
    """
    vocab_size = shape.vocab_size
    num_temperatures = len(wanted.temperatures)
    return ReplyParts(
        top_k=read_top_k(arrays, shape.num_top_k, wanted.top_k, num_temperatures, vocab_size),
        draws=read_draws(arrays, shape.num_drawn, wanted.num_draws, vocab_size),
        hidden=read_states(arrays, shape.num_hidden, wanted.hidden_format, shape.hidden_size),
        layers=read_layers(arrays, wanted, shape.num_at_layers, shape.hidden_size),
        chosen=read_chosen(arrays, wanted.senses or UNWANTED, shape.num_chosen),
        candidates=read_measured(arrays, wanted.candidates, shape.num_with_candidates),
    )


def most_reply_bytes(wanted: Wanted, shape: ReplyShape) -> int:
    """Return the most bytes that a valid reply has, with its headers."""
    senses = wanted.senses or UNWANTED
    num_temperatures = len(wanted.temperatures)
    num_layer_rows = len(wanted.layers) * shape.num_at_layers
    limits = widest(wanted.candidates)
    all_candidates_bytes = sum(
        candidates_bytes(form.most, limits.most, limits.num_rows) for form in wanted.candidates
    )
    return math.ceil(
        HEADER_BYTES
        + shape.num_top_k * top_k_bytes(wanted.top_k, shape.vocab_size, num_temperatures)
        + shape.num_drawn * most_draws_bytes(wanted.num_draws, shape.vocab_size)
        + shape.num_hidden * states_bytes(wanted.hidden_format, shape.hidden_size)
        + num_layer_rows * states_bytes(wanted.hidden_format, shape.hidden_size)
        + shape.num_chosen * chosen_bytes(2 * senses.most, senses.most, senses.num_rows)
        + shape.num_with_candidates * all_candidates_bytes
    )

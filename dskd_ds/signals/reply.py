"""The signal of one request <-> the arrays of its reply (link/messages.py). Teachers write, students read and check."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dskd_ds.link.messages import Array, Wanted
from dskd_ds.link.packing import pack, unpack
from dskd_ds.losses.distributions import TopK
from dskd_ds.signals.chosen import UNWANTED, Chosen, chosen_arrays, read_chosen
from dskd_ds.signals.states import as_tensor, pack_hidden, unpack_hidden
from dskd_ds.signals.take import Draws
from dskd_ds.signals.widths import hidden_width

LARGEST_LOG_PROB = 1e-5
"""Of a teacher that is sure: some devices' softmax rounds to a little more than 1."""


@dataclass(frozen=True)
class Signal:
    """All that a reply says, each part at its own positions."""

    top_k: TopK
    draws: Draws
    hidden: Tensor
    """[P, D]"""
    chosen: Chosen = field(default_factory=Chosen.nothing)
    """Senses at Q positions, where the teacher chooses them."""


def signal_arrays(signal: Signal, wanted: Wanted, vocab_size: int) -> dict[str, Array]:
    """The reply's arrays (link/messages.py)."""
    numbers, scales = pack_hidden(signal.hidden, wanted.hidden_format)
    return {
        "top_k_ids": pack(signal.top_k.ids.cpu().numpy(), vocab_size),
        "top_k_logits": signal.top_k.logits.cpu().numpy(),
        "tail": signal.top_k.tail.cpu().numpy(),
        "draw_lengths": signal.draws.lengths.numpy().astype(np.uint16),
        "draw_ids": pack(signal.draws.ids.numpy(), vocab_size),
        "draw_counts": pack(signal.draws.counts.numpy(), wanted.num_draws + 1),
        "draw_log_probs": signal.draws.log_probs.numpy(),
        "hidden": numbers,
        "hidden_scales": scales,
        **chosen_arrays(signal.chosen, wanted.senses or UNWANTED),
    }


def read_signal(
    arrays: dict[str, Array],
    wanted: Wanted,
    sizes: tuple[int, int],
    rows: tuple[int, int, int],
    num_chosen: int = 0,
) -> Signal:
    """A reply's arrays -> the signal on the CPU. Buffers that torch can use as they lie are not copied.

    sizes: vocabulary, hidden size. rows: how many positions were asked for top k, for draws, for hidden states. num_chosen: at how many
    positions the teacher was to choose senses.
    Raises ValueError if shapes or values do not fit them.
    """
    vocab_size, hidden_size = sizes
    top_k_rows, draw_rows, hidden_rows = rows
    num_bytes, num_scales = hidden_width(wanted.hidden_format, hidden_size)
    top_k = TopK(
        torch.from_numpy(unpack(arrays["top_k_ids"], vocab_size)),
        as_tensor(arrays["top_k_logits"]),
        as_tensor(arrays["tail"]),
    )
    draws = Draws(
        torch.from_numpy(arrays["draw_lengths"].astype(np.int64)),
        torch.from_numpy(unpack(arrays["draw_ids"], vocab_size)),
        torch.from_numpy(unpack(arrays["draw_counts"], wanted.num_draws + 1)),
        as_tensor(arrays["draw_log_probs"]),
    )
    k = (top_k_rows, min(wanted.top_k, vocab_size))
    for name, shape in {
        "top_k_logits": k,
        "tail": (top_k_rows, len(wanted.temperatures)),
        "draw_lengths": (draw_rows,),
        "draw_log_probs": (draw_rows,),
        "hidden": (hidden_rows, num_bytes),
        "hidden_scales": (hidden_rows, num_scales),
    }.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has shape {arrays[name].shape}, expected {shape}")
    if tuple(top_k.ids.shape) != k:
        raise ValueError(f"top_k_ids has shape {tuple(top_k.ids.shape)}, expected {k}")
    _check_draws(draws, wanted.num_draws)
    _check_range("top_k_logits", top_k.logits, most=0.0)
    _check_range(
        "tail", top_k.tail, least=-torch.inf
    )  # which it is where there are no other tokens
    _check_range(
        "hidden_scales",
        as_tensor(arrays["hidden_scales"].view(np.int16)).view(torch.bfloat16),
        least=0.0,
    )
    hidden = unpack_hidden(arrays["hidden"], arrays["hidden_scales"], wanted.hidden_format)
    _check_range("hidden", hidden)
    return Signal(top_k, draws, hidden, read_chosen(arrays, wanted.senses or UNWANTED, num_chosen))


def _check_range(
    name: str, values: Tensor, least: float | None = None, most: float | None = None
) -> None:
    """No value may be NaN, below `least` or above `most`, which are the ends of what is finite if not given. Raises ValueError."""
    if not values.numel():
        return
    finite = torch.finfo(values.dtype)
    least, most = finite.min if least is None else least, finite.max if most is None else most
    low, high = (float(end) for end in torch.aminmax(values))  # one pass, and NaN comes through
    if not least <= low <= high <= most:
        raise ValueError(
            f"{name} has values from {low:g} to {high:g}, expected {least:g} to {most:g}"
        )


def _check_draws(draws: Draws, num_draws: int) -> None:
    """Every row must hold `num_draws` draws on tokens that ascend, and their mean log-probability. Raises ValueError."""
    if not int(draws.lengths.sum()) == len(draws.ids) == len(draws.counts):
        raise ValueError(
            f"{len(draws.ids)} tokens and {len(draws.counts)} counts for rows of {int(draws.lengths.sum())} draws"
        )
    row = torch.repeat_interleave(torch.arange(len(draws.lengths)), draws.lengths)
    totals = torch.zeros(len(draws.lengths), dtype=torch.int64).index_add_(0, row, draws.counts)
    if (totals != num_draws).any() or (draws.counts == 0).any():
        raise ValueError(f"a row's counts do not make {num_draws} draws")
    if ((row[1:] == row[:-1]) & (draws.ids[1:] <= draws.ids[:-1])).any():
        raise ValueError("a row's drawn tokens do not ascend")
    if not (draws.log_probs.isfinite() & (draws.log_probs <= LARGEST_LOG_PROB)).all():
        raise ValueError("draw_log_probs has values that are no log-probabilities")

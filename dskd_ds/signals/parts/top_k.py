"""The top-k part: the k largest logits at a position, and the log-sum-exp of all others per
temperature.

The receiver normalises both together (docs/method.md, "On the wire"): rounded logits against an
exact total would give probabilities that add up to more than 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dskd_ds.link.messages import Array
from dskd_ds.link.packing import pack, unpack
from dskd_ds.losses.distributions import TopK
from dskd_ds.signals.parts.checks import as_tensor, check_range, check_shape


def take_top_k(logits: Tensor, k: int, temperatures: tuple[float, ...]) -> TopK:
    """Return the top k of logits [N, V]; the tail is summed over the other tokens themselves."""
    values, ids = logits.float().topk(min(k, logits.shape[1]), dim=1)
    peak = values[:, :1]
    others = (logits.float() - peak).scatter_(1, ids, -torch.inf)
    # Not torch.logsumexp: a row of -inf (k = V) must give -inf, not NaN. No entry is above 0.
    tails = [(others / tau).exp_().sum(dim=1).log() for tau in temperatures]
    no_tail = logits.new_empty(len(logits), 0, dtype=torch.float32)
    tail = torch.stack(tails, dim=1) if tails else no_tail
    return TopK(ids, (values - peak).to(torch.float16), tail)


def top_k_arrays(top_k: TopK, vocab_size: int) -> dict[str, Array]:
    """Return the reply's arrays of this part."""
    return {
        "top_k_ids": pack(top_k.ids.cpu().numpy(), vocab_size),
        "top_k_logits": top_k.logits.cpu().numpy(),
        "tail": top_k.tail.cpu().numpy(),
    }


def read_top_k(
    arrays: dict[str, Array], num_rows: int, k: int, num_temperatures: int, vocab_size: int
) -> TopK:
    """Return the part that the arrays hold. Raises ValueError if shapes or values do not fit."""
    ids = unpack(arrays["top_k_ids"], vocab_size)
    width = min(k, vocab_size)
    check_shape("top_k_logits", arrays["top_k_logits"], (num_rows, width))
    check_shape("tail", arrays["tail"], (num_rows, num_temperatures))
    check_shape("top_k_ids", ids, (num_rows, width))
    logits, tail = as_tensor(arrays["top_k_logits"]), as_tensor(arrays["tail"])
    check_range("top_k_logits", logits, most=0.0)
    check_range("tail", tail, least=-torch.inf)  # -inf where there are no other tokens
    return TopK(torch.from_numpy(ids), logits, tail)


def top_k_log_probs(top_k: TopK, tokens: Tensor, vocab_size: int) -> Tensor:
    """Return the log-probability [R] of one token per row, at temperature 1 (the last tail).

    A token outside the top k gets an even share of the bucket.
    """
    inside, tail = top_k.log_probs(1.0, -1)
    is_token = top_k.ids == tokens[:, None]
    outside = tail - math.log(max(vocab_size - top_k.ids.shape[1], 1))
    in_top_k = torch.where(is_token, inside, -torch.inf).amax(dim=1)
    return torch.where(is_token.any(dim=1), in_top_k, outside)

"""The draws part: tokens drawn from the teacher's distribution at a position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dskd_ds.link.messages import Array
from dskd_ds.link.packing import pack, unpack
from dskd_ds.losses.distributions import Sampled
from dskd_ds.signals.parts.checks import as_tensor, check_shape

PROBABILITY_UNITS = 2.0**40
"""Probabilities are counted in units of 2^-40: whole numbers whose sum does not depend on the order
of adding."""
LARGEST_LOG_PROB = 1e-5
"""Upper bound of a log-probability: the softmax of some devices rounds to slightly more than 1."""


@dataclass(frozen=True)
class Draws:
    """Draws at N positions in the form of the wire: row after row, each token once."""

    lengths: Tensor
    """[N] int64: different tokens at each position."""
    ids: Tensor
    """[sum of lengths] int64, ascending in each row."""
    counts: Tensor
    """[sum of lengths] int64: draws that fell on each."""
    log_probs: Tensor
    """[N] float32: mean of the drawn tokens' log-probabilities, over the draws of each position."""

    def rows(self, mask: Tensor) -> Draws:
        """Return the draws at some of the positions. mask: [N] bool."""
        is_entry_kept = torch.repeat_interleave(mask, self.lengths)
        return Draws(
            lengths=self.lengths[mask],
            ids=self.ids[is_entry_kept],
            counts=self.counts[is_entry_kept],
            log_probs=self.log_probs[mask],
        )

    def sampled(self) -> Sampled:
        """Return the draws as rows of equal width, with each token's share of the draws."""
        width = int(self.lengths.max()) if len(self.lengths) else 0
        is_drawn = torch.arange(width) < self.lengths[:, None]
        ids = torch.zeros(is_drawn.shape, dtype=torch.int64)
        weights = torch.zeros(is_drawn.shape)
        ids[is_drawn], weights[is_drawn] = self.ids, self.counts.float()
        return Sampled(ids, weights / weights.sum(dim=1, keepdim=True), self.log_probs)


def take_draws(logits: Tensor, tau: float, uniforms: Tensor) -> Draws:
    """Draw m tokens at each of N positions from softmax(logits / tau).

    logits: [N, V]. uniforms: [N, m] float64 in [0, 1), on the CPU. One token is drawn from each of
    m equal slices of the cumulative distribution. A token's expected share of the draws is its
    probability, as with independent draws (Sparse Logit Sampling, arXiv 2503.16870), but with less
    variance.
    """
    units = torch.softmax(logits.float() / tau, dim=1).mul_(PROBABILITY_UNITS)
    cumulative = units.long().cumsum_(dim=1)
    points = points_of_draws(uniforms, cumulative[:, -1:])
    drawn = torch.searchsorted(cumulative, points, right=True)
    return draws_of_tokens(drawn, units.gather(1, drawn))


def points_of_draws(uniforms: Tensor, total: Tensor) -> Tensor:
    """Return [N, m] int64: where in 0..total - 1 each draw falls, one in each of m equal slices.

    uniforms: [N, m] float64 in [0, 1), on the CPU. total: [N, 1] int64. The result is on the device
    of `total`.
    """
    num_draws = uniforms.shape[1]
    share = (torch.arange(num_draws, dtype=torch.float64) + uniforms) / num_draws
    return torch.minimum((share.to(total.device) * total).long(), total - 1)


def draws_of_tokens(drawn: Tensor, units: Tensor) -> Draws:
    """Return draws of tokens [N, m], ascending in each row, with probabilities [N, m] in units."""
    log_probs = (units / PROBABILITY_UNITS).log_().mean(dim=1).cpu()
    drawn = drawn.cpu()
    # Slices ascend, so draws of one token stand side by side: each run of equal draws is a token.
    is_first = torch.ones_like(drawn, dtype=torch.bool)
    is_first[:, 1:] = drawn[:, 1:] != drawn[:, :-1]
    starts = is_first.flatten().nonzero().squeeze(1)
    counts = torch.diff(starts, append=torch.tensor([is_first.numel()]))
    return Draws(is_first.sum(dim=1), drawn[is_first], counts, log_probs)


def draw_arrays(draws: Draws, num_draws: int, vocab_size: int) -> dict[str, Array]:
    """Return the reply's arrays of this part."""
    return {
        "draw_lengths": draws.lengths.numpy().astype(np.uint16),
        "draw_ids": pack(draws.ids.numpy(), vocab_size),
        "draw_counts": pack(draws.counts.numpy(), num_draws + 1),
        "draw_log_probs": draws.log_probs.numpy(),
    }


def read_draws(arrays: dict[str, Array], num_rows: int, num_draws: int, vocab_size: int) -> Draws:
    """Return the part that the arrays hold. Raises ValueError if shapes or values do not fit."""
    ids = torch.from_numpy(unpack(arrays["draw_ids"], vocab_size))
    counts = torch.from_numpy(unpack(arrays["draw_counts"], num_draws + 1))
    check_shape("draw_lengths", arrays["draw_lengths"], (num_rows,))
    check_shape("draw_log_probs", arrays["draw_log_probs"], (num_rows,))
    lengths = torch.from_numpy(arrays["draw_lengths"].astype(np.int64))
    draws = Draws(lengths, ids, counts, as_tensor(arrays["draw_log_probs"]))
    _check_draws(draws, num_draws)
    return draws


def _check_draws(draws: Draws, num_draws: int) -> None:
    """Raise ValueError unless every row has `num_draws` draws of ascending tokens."""
    num_entries = int(draws.lengths.sum())
    if not num_entries == len(draws.ids) == len(draws.counts):
        raise ValueError(
            f"{len(draws.ids)} tokens and {len(draws.counts)} counts"
            f" for rows of {num_entries} draws"
        )
    # Tokens that ascend are distinct, as `Sampled` promises.
    row = torch.repeat_interleave(torch.arange(len(draws.lengths)), draws.lengths)
    totals = torch.zeros(len(draws.lengths), dtype=torch.int64).index_add_(0, row, draws.counts)
    if (totals != num_draws).any() or (draws.counts == 0).any():
        raise ValueError(f"a row's counts do not sum to {num_draws} draws")
    if ((row[1:] == row[:-1]) & (draws.ids[1:] <= draws.ids[:-1])).any():
        raise ValueError("a row's drawn tokens do not ascend")
    if not (draws.log_probs.isfinite() & (draws.log_probs <= LARGEST_LOG_PROB)).all():
        raise ValueError("draw_log_probs has values above 0 or not finite")


def drawn_log_probs(sampled: Sampled, tokens: Tensor, num_draws: int, vocab_size: int) -> Tensor:
    """Estimate the log-probability [R] of one token per row from its share of the draws.

    One more draw, spread evenly over all tokens, keeps it finite for a token that was not drawn.
    """
    share = (sampled.weights * (sampled.ids == tokens[:, None])).sum(dim=1)
    return torch.log((num_draws * share + 1 / vocab_size) / (num_draws + 1))

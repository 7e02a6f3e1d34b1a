"""What is taken from the teacher's logits: the top k and the log-sum-exp of all others for each temperature, or draws.

The receiver normalises top k and tail together (docs/method.md, "On the wire"): rounded logits against an exact total would give
probabilities that add up to more than 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor

from dskd_ds.losses.distributions import Sampled, TopK


@dataclass(frozen=True)
class Draws:
    """Draws at N positions as they travel: row after row, each token once."""

    lengths: Tensor
    """[N] int64: different tokens at each position."""
    ids: Tensor
    """[sum of lengths] int64, ascending in each row."""
    counts: Tensor
    """[sum of lengths] int64: draws that fell on each."""
    log_probs: Tensor
    """[N] float32: the mean over each position's draws of the teacher's log-probability of what was drawn."""

    def sampled(self) -> Sampled:
        """As a rectangle of shares."""
        width = int(self.lengths.max()) if len(self.lengths) else 0
        there = torch.arange(width) < self.lengths[:, None]
        ids = torch.zeros(there.shape, dtype=torch.int64)
        weights = torch.zeros(there.shape)
        ids[there], weights[there] = self.ids, self.counts.float()
        return Sampled(ids, weights / weights.sum(dim=1, keepdim=True), self.log_probs)


Part = TypeVar("Part", TopK, Draws)


def top_k_signal(logits: Tensor, k: int, temperatures: tuple[float, ...]) -> TopK:
    """Take the signal from logits [N, V]; the log-sum-exp is exact over the other tokens, not a difference of totals."""
    values, ids = logits.float().topk(min(k, logits.shape[1]), dim=1)
    peak = values[:, :1]
    others = (logits.float() - peak).scatter_(1, ids, -torch.inf)
    # logsumexp by hand: rows whose every entry is -inf (k = V) must give -inf, not NaN, and the maximum is known to be <= 0.
    tail = (
        torch.stack([(others / tau).exp_().sum(dim=1).log() for tau in temperatures], dim=1)
        if temperatures
        else logits.new_empty(len(logits), 0, dtype=torch.float32)
    )
    return TopK(ids, (values - peak).to(torch.float16), tail)


def draw(logits: Tensor, tau: float, uniforms: Tensor) -> Draws:
    """m draws at each of N positions from softmax(logits / tau), one from each of m equal slices of the cumulative distribution.

    logits: [N, V]. uniforms: [N, m] float64 in [0, 1), on the CPU. A token's expected share of the draws is its probability, as with
    independent draws (Sparse Logit Sampling, arXiv 2503.16870), but slices scatter less about it. Probabilities are summed as whole
    numbers of 2^-40: the sum does not depend on the device's order of adding.
    """
    num_draws = uniforms.shape[1]
    scaled = torch.softmax(logits.float() / tau, dim=1).mul_(2.0**40)
    cumulative = scaled.long().cumsum_(dim=1)
    share = (torch.arange(num_draws, dtype=torch.float64) + uniforms) / num_draws
    total = cumulative[:, -1:]
    points = torch.minimum((share.to(logits.device) * total).long(), total - 1)
    drawn = torch.searchsorted(cumulative, points, right=True)
    log_probs = scaled.gather(1, drawn).mul_(2.0**-40).log_().mean(dim=1).cpu()
    drawn = drawn.cpu()
    first = torch.ones_like(drawn, dtype=torch.bool)
    first[:, 1:] = drawn[:, 1:] != drawn[:, :-1]
    starts = first.flatten().nonzero().squeeze(1)
    return Draws(
        first.sum(dim=1),
        drawn[first],
        torch.diff(starts, append=torch.tensor([first.numel()])),
        log_probs,
    )


def concatenate(parts: Sequence[Part]) -> Part:
    """Rows of several chunks, in their order."""
    return type(parts[0])(
        *(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(parts[0]))
    )

"""Takes top k and draws from logits that are whole, or divided by token over a teacher's ranks.

With a divided head no rank forms the logits of the whole vocabulary. Each rank takes its own top k,
and k candidates per rank are gathered; the log-sum-exp of all other tokens is the sum of the ranks'
own. A draw falls into the tokens of one rank, which the others learn by a sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dskd_ds.losses.distributions import TopK
from dskd_ds.models.vocab_shard import VocabShard
from dskd_ds.signals.parts.draws import (
    PROBABILITY_UNITS,
    Draws,
    draws_of_tokens,
    points_of_draws,
    take_draws,
)
from dskd_ds.signals.parts.top_k import take_top_k


def take_top_k_at(
    logits: Tensor, k: int, temperatures: tuple[float, ...], shard: VocabShard | None
) -> TopK:
    """Return the top k of logits [N, V]; with a shard of this rank's logits [N, rows]. Collective.

    The values are those of `take_top_k` on the whole logits. Of tokens with equal logits others may
    be taken, and the tails' sums are rounded in another order.
    """
    if shard is None:
        return take_top_k(logits, k, temperatures)
    logits = logits.float()
    values, ids = _candidates(logits, k, shard)
    best = values.topk(min(k, shard.vocab_size), dim=1)
    top_ids = ids.gather(1, best.indices)
    peak = best.values[:, :1]
    others = logits - peak
    # Of the top k only the tokens of this rank are masked here.
    columns = top_ids - shard.first
    is_here = (columns >= 0) & (columns < logits.shape[1])
    rows = torch.arange(len(logits), device=logits.device)[:, None].expand_as(columns)
    others[rows[is_here], columns[is_here]] = -torch.inf
    tail = logits.new_empty(len(logits), 0)
    if temperatures:
        sums = [(others / tau).exp_().sum(dim=1) for tau in temperatures]
        tail = shard.all_reduce_sum(torch.stack(sums, dim=1)).log()
    return TopK(top_ids, (best.values - peak).to(torch.float16), tail)


def _candidates(logits: Tensor, k: int, shard: VocabShard) -> tuple[Tensor, Tensor]:
    """Return each rank's top k side by side: logits and token ids [N, ranks * k]. Collective."""
    width = min(k, shard.vocab_size)
    values, ids = logits.topk(min(width, logits.shape[1]), dim=1)
    # Ranks with fewer rows than k send entries that are never chosen.
    missing = width - values.shape[1]
    values = torch.nn.functional.pad(values, (0, missing), value=-torch.inf)
    ids = torch.nn.functional.pad(ids + shard.first, (0, missing))
    return torch.cat(shard.all_gather(values), dim=1), torch.cat(shard.all_gather(ids), dim=1)


def take_draws_at(logits: Tensor, tau: float, uniforms: Tensor, shard: VocabShard | None) -> Draws:
    """Draw tokens as `take_draws` does; with a shard from this rank's logits [N, rows]. Collective.

    The normaliser is rounded in another order than without a shard, so a draw that falls just
    between two tokens may be the other one.
    """
    if shard is None:
        return take_draws(logits, tau, uniforms)
    scaled = logits.float() / tau
    peak = shard.all_reduce_max(scaled.amax(dim=1, keepdim=True))
    weights = (scaled - peak).exp_()
    normaliser = shard.all_reduce_sum(weights.sum(dim=1, keepdim=True))
    units = weights.mul_(PROBABILITY_UNITS).div_(normaliser)
    cumulative = units.long().cumsum_(dim=1)
    here = cumulative[:, -1:]
    # The tokens of the ranks below come first.
    totals = torch.cat(shard.all_gather(here), dim=1)
    before = totals[:, : shard.rank].sum(dim=1, keepdim=True)
    points = points_of_draws(uniforms, totals.sum(dim=1, keepdim=True)) - before
    is_here = (points >= 0) & (points < here)
    # A point of another rank gets some column of this one, whose values are then masked.
    inside = torch.minimum(points.clamp_min(0), (here - 1).clamp_min(0))
    columns = torch.searchsorted(cumulative, inside, right=True).clamp_max(logits.shape[1] - 1)
    drawn = torch.where(is_here, columns + shard.first, 0)
    drawn_units = torch.where(is_here, units.gather(1, columns), 0.0)
    return draws_of_tokens(shard.all_reduce_sum(drawn), shard.all_reduce_sum(drawn_units))

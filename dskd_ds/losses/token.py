"""Losses on the logits of some positions, each with its gradient in closed form, in the memory that the logits were in.

Every KL at temperature 1 needs the same softmax as cross-entropy. So each function here returns

    factor * d(divergence)/dz  +  own * q        [C, V], z the logits it is given, q = softmax(z)

and cross-entropy's gradient is own * q, less `own` at the right token. Nothing else of size [C, V] is made, but where it says so.
`torch.compile` is not used: it took 1.05 (tail) and 1.04 (full) of the whole objective's time on one CPU core, where rows are worked on
in the cache anyway (losses/chunk.py), after 21 s of compiling. On a GPU nobody has measured it.
Source: docs/method.md, "The losses" and "Top-k KL".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dskd_ds.losses.distributions import Sampled
from dskd_ds.losses.divergence import divergence
from dskd_ds.spec.loss import Divergence

LEAST_LOG = -104.0
"""exp of this is 0 in float32: the wire's log-sum-exp cannot tell less from nothing, and log 0 would make a reverse KL infinite."""


@dataclass(frozen=True)
class RowLoss:
    """A loss at C positions."""

    values: Tensor
    """[C] in nats."""
    log_total: Tensor
    """[C]: logsumexp of the student's logits."""
    grad: Tensor
    """[C, V]: see the module's first lines. The memory of the logits."""


def own_softmax_(logits: Tensor, own: float) -> RowLoss:
    """No teacher: the gradient is own * q. logits: [C, V] float32, overwritten."""
    log_total, row_sum = _exp_(logits)
    return RowLoss(torch.zeros_like(log_total), log_total, logits.mul_((own / row_sum)[:, None]))


def tail_divergence_(
    logits: Tensor,
    ids: Tensor,
    log_p: Tensor,
    log_p_rest: Tensor,
    kind: Divergence,
    factor: float,
    own: float,
) -> RowLoss:
    """Divergence over the teacher's k tokens and one bucket for all others: a true one, never above that over all tokens.

    logits: [C, V] float32, overwritten. ids, log_p: [C, k]; log_p_rest: [C]; adding up to 1 at the logits' temperature.
    Raises IndexError (RuntimeError on some devices) if an id is outside the student's vocabulary.
    """
    inside = logits.gather(1, ids)
    # logsumexp over the others, not log(1 - sum): the latter is all rounding error where the k tokens hold nearly everything.
    log_rest, row_sum = _exp_(logits.scatter_(1, ids, -torch.inf))
    log_total = torch.logaddexp(torch.logsumexp(inside, dim=1), log_rest)
    log_q = torch.cat([inside, log_rest[:, None]], dim=1).sub_(log_total[:, None])
    values, slope = divergence(
        torch.cat([log_p, log_p_rest.clamp_min(LEAST_LOG)[:, None]], dim=1), log_q, kind
    )
    slope = slope.mul_(factor).add_(log_q.exp_(), alpha=own)
    # The bucket's share falls on each of the others by its part of them; at k = V there are none.
    grad = logits.mul_(torch.where(row_sum > 0, slope[:, -1] / row_sum, 0.0)[:, None])
    return RowLoss(values, log_total, grad.scatter_(1, ids, slope[:, :-1]))


def full_divergence_(
    logits: Tensor, teacher_logits: Tensor, kind: Divergence, factor: float, own: float
) -> RowLoss:
    """Divergence over the whole vocabulary. logits: [C, V], teacher_logits: [C, Vt <= V], float32, both overwritten.

    Tokens that only the student has are to the teacher of probability 0. Makes one more [C, V] for `forward`, several for the others.
    """
    if kind != "forward":
        log_total = torch.logsumexp(logits, dim=1)
        log_p = torch.log_softmax(teacher_logits, dim=1)
        if missing := logits.shape[1] - log_p.shape[1]:
            log_p = torch.nn.functional.pad(log_p, (0, missing), value=-torch.inf)
        log_q = logits.sub_(log_total[:, None])
        values, slope = divergence(log_p, log_q, kind)
        return RowLoss(values, log_total, log_q.exp_().mul_(own).add_(slope, alpha=factor))
    shared = teacher_logits.shape[1]
    gap = teacher_logits - logits[:, :shared]
    log_p_total, p_sum = _exp_(teacher_logits)
    log_total, q_sum = _exp_(logits)
    # sum p (log p - log q) without either logarithm: exactly 0 where the logits are the same.
    values = torch.linalg.vecdot(teacher_logits, gap) / p_sum + (log_total - log_p_total)
    grad = logits.mul_(((factor + own) / q_sum)[:, None])
    grad[:, :shared].addcmul_(teacher_logits, (factor / p_sum)[:, None], value=-1)
    return RowLoss(values, log_total, grad)


def sampled_kl_(logits: Tensor, sampled: Sampled, factor: float, own: float) -> RowLoss:
    """Forward KL by the teacher's draws: sum_j w_j (log p_j - log q_j), with the gradient q - w. logits: [C, V] float32, overwritten.

    Both are unbiased, as the shares w_j are of p_j; at one position the value may be below 0. It is 0, whatever was drawn, where student
    and teacher are equal: the teacher says sum_j w_j log p_j itself. Source: Anshumann et al., arXiv 2503.16870 (the gradient).
    """
    drawn = logits.gather(1, sampled.ids)
    result = own_softmax_(logits, factor + own)
    values = (sampled.weights * (result.log_total[:, None] - drawn)).sum(dim=1) + sampled.log_probs
    return RowLoss(
        values,
        result.log_total,
        result.grad.scatter_add_(1, sampled.ids, sampled.weights * -factor),
    )


def _exp_(logits: Tensor) -> tuple[Tensor, Tensor]:
    """exp(z - peak) in place; logsumexp(z) [C] and the sum of what is now there [C]. A row of -inf becomes zeros."""
    peak = logits.amax(dim=1).clamp_min(torch.finfo(logits.dtype).min)
    row_sum = logits.sub_(peak[:, None]).exp_().sum(dim=1)
    return peak + row_sum.log(), row_sum


AGREEMENT = (
    "teacher_mass",
    "teacher_mass_at_1",
    "student_mass",
    "student_mass_at_1",
    "topk_overlap",
)
"""How well the teacher's k tokens cover both distributions: the probability that the teacher gives to them and that the student gives to
them, each at the loss's temperature and at 1; the share of them among the student's k likeliest."""


@torch.no_grad()
def agreement(logits: Tensor, ids: Tensor, taus: tuple[float, ...]) -> list[Tensor]:
    """The student's masses [R] at each temperature, then the overlap [R]. logits: [R, V] at temperature 1; ids: [R, k]."""
    inside = logits.gather(1, ids)
    smallest_kept = logits.topk(ids.shape[1], dim=1).values[:, -1:]
    return [*masses(inside, logits, taus), (inside >= smallest_kept).float().mean(dim=1)]


@torch.no_grad()
def masses(inside: Tensor, logits: Tensor, taus: tuple[float, ...]) -> list[Tensor]:
    """The probability [R] of some tokens at each temperature. inside: [R, k] of the logits [R, V]."""
    found = {
        tau: (torch.logsumexp(inside / tau, dim=1) - torch.logsumexp(logits / tau, dim=1)).exp()
        for tau in set(taus)
    }
    return [found[tau] for tau in taus]

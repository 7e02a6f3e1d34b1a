"""Losses on the logits of some positions, each with its gradient in closed form.

The gradient is written into the memory of the logits. Every KL at temperature 1 needs the same
softmax as cross-entropy. So each function here returns

    kd_scale * d(divergence)/dz  +  ce_scale * q       [C, V]

with z the logits it is given and q = softmax(z). The gradient of cross-entropy is ce_scale * q,
less ce_scale at the right token; the caller subtracts that. No other [C, V] is allocated unless the
docstring says so.

`torch.compile` is not used. With it the objective took 1.05 (tail) and 1.04 (full) times as long on
one CPU core, after 21 s of compiling: rows stay in the cache anyway (objective/chunk.py). It was
never measured on a GPU.
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
"""Lower bound of the bucket's log-probability.

exp of it is 0 in float32, so the log-sum-exp on the wire cannot tell less from nothing, and the log
of 0 would make a reverse KL infinite.
"""


Scale = float | Tensor
"""A factor of all rows, or one per row as [C, 1]."""


@dataclass(frozen=True)
class RowLoss:
    """A loss at C positions, and its gradient."""

    values: Tensor
    """[C] in nats."""
    log_total: Tensor
    """[C] logsumexp of the student's logits."""
    grad: Tensor
    """[C, V] the gradient in the module's docstring, in the memory of the logits."""


def own_softmax_(logits: Tensor, ce_scale: Scale) -> RowLoss:
    """Return the gradient ce_scale * q and a loss of 0, for positions without a teacher's signal.

    logits: [C, V] float32, overwritten.
    """
    log_total, row_sum = _exp_(logits)
    grad = logits.mul_(ce_scale / row_sum[:, None])
    return RowLoss(torch.zeros_like(log_total), log_total, grad)


def tail_divergence_(
    logits: Tensor,
    ids: Tensor,
    log_p: Tensor,
    log_p_rest: Tensor,
    kind: Divergence,
    kd_scale: Scale,
    ce_scale: float,
) -> RowLoss:
    """Return the divergence over the teacher's k tokens and one bucket for all other tokens.

    It is a true divergence, and never above the divergence over all tokens.

    logits: [C, V] float32, overwritten.
    ids, log_p: [C, k], log_p_rest: [C]; the probabilities add up to 1 at the logits' temperature.
    Raises IndexError (RuntimeError on some devices) if an id is outside the student's vocabulary.
    """
    # Read before the k tokens are masked in place.
    inside = logits.gather(1, ids)
    # The logsumexp of the others, not log(1 - sum): where the k tokens hold nearly everything, the
    # latter is only rounding error.
    log_rest, row_sum = _exp_(logits.scatter_(1, ids, -torch.inf))
    log_total = torch.logaddexp(torch.logsumexp(inside, dim=1), log_rest)
    log_q = torch.cat([inside, log_rest[:, None]], dim=1).sub_(log_total[:, None])
    log_p_bucket = log_p_rest.clamp_min(LEAST_LOG)[:, None]
    log_p = torch.cat([log_p, log_p_bucket], dim=1)
    values, slope = divergence(log_p, log_q, kind)
    slope = slope.mul_(kd_scale).add_(log_q.exp_(), alpha=ce_scale)
    # The bucket's gradient is divided among its tokens by their probability; at k = V it is empty.
    bucket_scale = torch.where(row_sum > 0, slope[:, -1] / row_sum, 0.0)
    grad = logits.mul_(bucket_scale[:, None])
    return RowLoss(values, log_total, grad.scatter_(1, ids, slope[:, :-1]))


def full_divergence_(
    logits: Tensor, teacher_logits: Tensor, kind: Divergence, kd_scale: float, ce_scale: float
) -> RowLoss:
    """Return the divergence over the whole vocabulary.

    Tokens that only the student has get probability 0 from the teacher. Allocates one more [C, V]
    for `forward`, and several for the other kinds.

    logits: [C, V], teacher_logits: [C, Vt <= V], both float32 and overwritten.
    """
    if kind == "forward":
        # The default. Its closed form needs no logarithm of either distribution, so less memory.
        return _full_forward_kl_(logits, teacher_logits, kd_scale=kd_scale, ce_scale=ce_scale)
    log_total = torch.logsumexp(logits, dim=1)
    log_p = torch.log_softmax(teacher_logits, dim=1)
    if num_missing := logits.shape[1] - log_p.shape[1]:
        log_p = torch.nn.functional.pad(log_p, (0, num_missing), value=-torch.inf)
    log_q = logits.sub_(log_total[:, None])
    values, slope = divergence(log_p, log_q, kind)
    grad = log_q.exp_().mul_(ce_scale).add_(slope, alpha=kd_scale)
    return RowLoss(values, log_total, grad)


def _full_forward_kl_(
    logits: Tensor, teacher_logits: Tensor, kd_scale: float, ce_scale: float
) -> RowLoss:
    num_shared = teacher_logits.shape[1]
    gap = teacher_logits - logits[:, :num_shared]
    log_p_total, p_sum = _exp_(teacher_logits)
    log_total, q_sum = _exp_(logits)
    # sum p (log p - log q) without either logarithm: exactly 0 where the logits are the same.
    values = torch.linalg.vecdot(teacher_logits, gap) / p_sum + (log_total - log_p_total)
    grad = logits.mul_(((kd_scale + ce_scale) / q_sum)[:, None])
    grad[:, :num_shared].addcmul_(teacher_logits, (kd_scale / p_sum)[:, None], value=-1)
    return RowLoss(values, log_total, grad)


def sampled_kl_(logits: Tensor, sampled: Sampled, kd_scale: Scale, ce_scale: float) -> RowLoss:
    """Return the forward KL estimated from the teacher's draws, with its gradient q - w.

    The value is sum_j w_j (log p_j - log q_j), where the teacher sends sum_j w_j log p_j. Value and
    gradient are unbiased because the shares w_j are unbiased estimates of p_j. The value may be
    below 0 at a single position. It is 0 for any draws if student and teacher are equal.

    logits: [C, V] float32, overwritten.
    Source of the gradient: Anshumann et al., arXiv 2503.16870.
    """
    # Read before the logits are overwritten. Cross-entropy and forward KL have the gradients q - y
    # and q - w: both share the term q.
    drawn = logits.gather(1, sampled.ids)
    result = own_softmax_(logits, kd_scale + ce_scale)
    cross_entropy = (sampled.weights * (result.log_total[:, None] - drawn)).sum(dim=1)
    values = cross_entropy + sampled.log_probs
    grad = result.grad.scatter_add_(1, sampled.ids, sampled.weights * -kd_scale)
    return RowLoss(values, result.log_total, grad)


def _exp_(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Overwrite logits with exp(z - row maximum); return logsumexp(z) [C] and the new row sums [C].

    A row of -inf becomes zeros.
    """
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
"""Metrics of how well the teacher's k tokens cover both distributions.

The masses are the probabilities that the teacher and the student give to these tokens, at the
loss's temperature and at 1. The overlap is their share among the student's k most likely tokens.
"""


@torch.no_grad()
def agreement(logits: Tensor, ids: Tensor, taus: tuple[float, ...]) -> list[Tensor]:
    """Return the student's masses [R] at each temperature, then the overlap [R].

    logits: [R, V] at temperature 1. ids: [R, k], the teacher's tokens.
    """
    inside = logits.gather(1, ids)
    smallest_kept = logits.topk(ids.shape[1], dim=1).values[:, -1:]
    overlap = (inside >= smallest_kept).float().mean(dim=1)
    return [*masses(inside, logits, taus), overlap]


@torch.no_grad()
def masses(inside: Tensor, logits: Tensor, taus: tuple[float, ...]) -> list[Tensor]:
    """Return the probability [R] of some tokens at each temperature.

    inside: [R, k], the tokens' logits. logits: [R, V], all logits.
    """
    by_tau: dict[float, Tensor] = {}
    for tau in set(taus):
        log_mass = torch.logsumexp(inside / tau, dim=1) - torch.logsumexp(logits / tau, dim=1)
        by_tau[tau] = log_mass.exp()
    return [by_tau[tau] for tau in taus]

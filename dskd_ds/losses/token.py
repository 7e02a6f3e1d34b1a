"""Per-position losses on logits, each with its gradient in closed form: cross-entropy, full KL, KL over top k and a bucket.

Pure functions of one chunk of positions; [C, V] tensors live only here. Gradients are with respect to the student's logits.
Source: METHOD.md, "The losses" and "Top-k KL done right".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dskd_ds.teacher.signal import TopK


@dataclass(frozen=True)
class RowLoss:
    """A loss at C positions."""

    values: Tensor
    """[C] in nats."""
    grad: Tensor
    """[C, V]: derivative of each row's value by its own logits."""


def cross_entropy(logits: Tensor, targets: Tensor) -> RowLoss:
    """-log p(target). logits [C, V] float32, targets [C] int64 (all supervised)."""
    log_probs = torch.log_softmax(logits, dim=1)
    rows = torch.arange(len(targets), device=logits.device)
    values = -log_probs[rows, targets]
    grad = log_probs.exp_()
    grad[rows, targets] -= 1
    return RowLoss(values, grad)


def full_kl(logits: Tensor, teacher_logits: Tensor, tau: float) -> RowLoss:
    """KL(teacher || student) over the whole vocabulary at temperature tau. Both logits [C, V] float32."""
    student = torch.log_softmax(logits / tau, dim=1)
    teacher = torch.log_softmax(teacher_logits / tau, dim=1)
    probs = teacher.exp()
    values = (probs * (teacher - student)).sum(dim=1)
    return RowLoss(values, student.exp_().sub_(probs).div_(tau))


def tail_kl(logits: Tensor, teacher: TopK, tau: float, column: int = 0) -> RowLoss:
    """KL(teacher || student) over the teacher's k tokens and one bucket for all others.

    logits: student's, [C, V] float32. teacher: at C positions; `column` of its tail belongs to `tau`.
    0 <= value <= the full KL, equal to it at k = V. Gradient: (q - p) / tau inside the k, q (1 - p_rest / q_rest) / tau outside.
    Raises IndexError (RuntimeError on some devices) if an id is outside the student's vocabulary.
    """
    log_p, log_p_rest = teacher.log_probs(tau, column)
    scaled = logits / tau
    inside = scaled.gather(1, teacher.ids)
    outside = scaled.scatter(1, teacher.ids, -torch.inf)
    # logsumexp over the others, not log(1 - sum): the latter is all rounding error where the k tokens hold nearly everything
    log_rest = torch.logsumexp(outside, dim=1)
    log_total = torch.logaddexp(torch.logsumexp(inside, dim=1), log_rest)
    log_q, log_q_rest = inside - log_total[:, None], log_rest - log_total
    p, p_rest = log_p.exp(), log_p_rest.exp()
    has_rest = p_rest > 0
    log_ratio_rest = torch.where(has_rest, log_p_rest - log_q_rest, 0.0)
    values = torch.where(p > 0, p * (log_p - log_q), 0.0).sum(dim=1) + p_rest * log_ratio_rest
    factor = torch.where(has_rest, 1 - log_ratio_rest.exp(), 1.0)
    grad = outside.sub_(log_total[:, None]).exp_().mul_(factor[:, None])
    grad.scatter_(1, teacher.ids, log_q.exp() - p)
    return RowLoss(values, grad.div_(tau))


@torch.no_grad()
def student_mass(logits: Tensor, ids: Tensor, tau: float) -> Tensor:
    """[C]: the student's probability on the teacher's k tokens [C, k], at temperature tau."""
    return torch.log_softmax(logits / tau, dim=1).gather(1, ids).exp().sum(dim=1)


@torch.no_grad()
def overlap(logits: Tensor, ids: Tensor) -> Tensor:
    """[C]: the share of the teacher's k tokens [C, k] that are among the student's k likeliest."""
    k = ids.shape[1]
    smallest_kept = logits.topk(k, dim=1).values[:, -1:]
    return (logits.gather(1, ids) >= smallest_kept).float().mean(dim=1)

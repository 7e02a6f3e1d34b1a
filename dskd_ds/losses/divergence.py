"""Divergences between a teacher's and a student's distribution over any outcomes: single tokens, or k tokens and a bucket.

p the teacher's, q the student's, m their mean:

    forward          KL(p || q)
    reverse          KL(q || p)
    jensen_shannon   1/2 KL(p || m) + 1/2 KL(q || m)    (never above log 2)

Sources: Hinton et al. (arXiv 1503.02531) for the first, Agarwal et al. (GKD, arXiv 2306.13649) for all three.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dskd_ds.spec.loss import Divergence


def divergence(log_p: Tensor, log_q: Tensor, kind: Divergence) -> tuple[Tensor, Tensor]:
    """Values [C] in nats, and their derivative [C, n] by the student's log-odds of the n outcomes.

    log_p, log_q: [C, n], each row's probabilities adding up to 1; -inf where there is none. With d the derivative by log q at fixed
    total, the derivative by log-odds is d - q * sum(d): of a softmax's logits, where every outcome is one token.
    """
    q = log_q.exp()
    if kind == "forward":
        p = log_p.exp()
        return _mean(p, log_p - log_q), q - p
    if kind == "reverse":
        ratio = log_q - log_p
        values = _mean(q, ratio)
        return values, torch.where(q > 0, q * (ratio - values[:, None]), 0.0)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    ratio = log_q - log_m
    of_student = _mean(q, ratio)
    values = 0.5 * (_mean(log_p.exp(), log_p - log_m) + of_student)
    return values, torch.where(q > 0, 0.5 * q * (ratio - of_student[:, None]), 0.0)


def _mean(weights: Tensor, values: Tensor) -> Tensor:
    """[C]: expectation of `values` under `weights`; an outcome without weight adds nothing, whatever its value."""
    return torch.where(weights > 0, weights * values, 0.0).sum(dim=1)

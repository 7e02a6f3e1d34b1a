"""Divergences between a teacher's and a student's distribution, with their gradients.

The outcomes of the distributions are single tokens, or k tokens and a bucket of all others. With p
the teacher's distribution, q the student's and m their mean:

    forward          KL(p || q)
    reverse          KL(q || p)
    jensen_shannon   1/2 KL(p || m) + 1/2 KL(q || m)    (at most log 2)

Sources: Hinton et al. (arXiv 1503.02531) for `forward`, Agarwal et al. (GKD, arXiv 2306.13649) for
all three.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dskd_ds.spec.loss import Divergence


def divergence(log_p: Tensor, log_q: Tensor, kind: Divergence) -> tuple[Tensor, Tensor]:
    """Return the values [C] in nats, and their gradient [C, n] by the student's log-odds.

    log_p, log_q: [C, n]; the probabilities of each row add up to 1; -inf for probability 0.
    With d the derivative by log q at fixed total, the gradient by the log-odds of the n outcomes
    is d - q * sum(d). If every outcome is one token, the log-odds are the logits of a softmax.
    """
    q = log_q.exp()
    if kind == "forward":
        p = log_p.exp()
        # Here d = -p, and its sum is -1.
        return _expectation(p, log_p - log_q), q - p
    if kind == "reverse":
        log_ratio = log_q - log_p
        values = _expectation(q, log_ratio)
        # At q = 0 the ratio is -inf or NaN, and its product with q would be NaN.
        return values, torch.where(q > 0, q * (log_ratio - values[:, None]), 0.0)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    log_ratio = log_q - log_m
    student_kl = _expectation(q, log_ratio)
    values = 0.5 * (_expectation(log_p.exp(), log_p - log_m) + student_kl)
    return values, torch.where(q > 0, 0.5 * q * (log_ratio - student_kl[:, None]), 0.0)


def _expectation(weights: Tensor, values: Tensor) -> Tensor:
    """Return the expectation [C] of `values` under `weights`.

    An outcome of weight 0 adds nothing, even if its value is infinite or NaN.
    """
    return torch.where(weights > 0, weights * values, 0.0).sum(dim=1)

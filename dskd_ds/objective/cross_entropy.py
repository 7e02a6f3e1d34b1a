"""Measures the cross-entropy alone, without gradients and without a teacher."""

from __future__ import annotations

import torch
from torch import Tensor

from dskd_ds.models.head import HeadForm
from dskd_ds.objective.targets import TeacherTargets

LOGIT_ROWS = 256
"""Positions whose logits exist at a time."""


@torch.no_grad()
def cross_entropy_sum(
    hidden: Tensor, weight: Tensor, form: HeadForm, targets: TeacherTargets
) -> tuple[Tensor, Tensor]:
    """Return the sum of the cross-entropy over the supervised positions, and their number.

    hidden: [B * T, D]. weight: [V, D], the LM head's. Both results are float64 scalars; a position
    has weight 1 whatever `targets.weights` says.
    """
    total = torch.zeros((), dtype=torch.float64, device=hidden.device)
    chunks = zip(
        targets.positions.split(LOGIT_ROWS), targets.targets.split(LOGIT_ROWS), strict=True
    )
    for positions, ids in chunks:
        product = hidden.index_select(0, positions) @ weight.T
        logits = form.apply_(product.float())
        right = logits.gather(1, ids[:, None]).squeeze(1)
        total += (torch.logsumexp(logits, dim=1) - right).double().sum()
    return total, total.new_tensor(len(targets.positions))

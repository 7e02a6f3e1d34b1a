"""The sense term: the student's last hidden state is pulled towards senses in S+ and pushed from senses in S-.

    SENSE(i) = pull * mean_{s in S+} |s - h_i|^2 / D  +  push * mean_{a in S-} max(0, margin - |a - h_i|^2 / D)

An empty set contributes 0. Source: docs/method.md, "The losses" and "Algebra".
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from dskd_ds.spec.loss import LossSpec

COVERAGE = ("synonyms", "antonyms", "neighbours", "nothing")
"""What positions are counted by: related words with senses were drawn, the index gave senses to S+ or S-, both sets are empty."""


@dataclass(frozen=True)
class SenseTargets:
    """What P positions are pulled towards and pushed from. These wait in memory for some steps, so senses keep the dictionary's format.

    The pull needs one vector per position: mean |s - h|^2 = |h - mean|^2 + (mean |s|^2 - |mean|^2), and the bracket is a constant.
    """

    positions: Tensor
    """[P] int64, through the flattened B * T."""
    weights: Tensor
    """[P] float32: weight of each position's term."""
    pull_mean: Tensor
    """[P, D] float32: mean of S+, which bfloat16 would round; zeros where S+ is empty."""
    pull_spread: Tensor
    """[P] float32: mean |s|^2 - |mean|^2 over S+."""
    has_pull: Tensor
    """[P] bool: whether S+ has any sense."""
    push: Tensor
    """[P, K, D], of the dictionary's bfloat16: the senses of S-, padded with zeros."""
    push_norms: Tensor
    """[P, K] float32: |s|^2 of each; the dictionary knows them."""
    push_mask: Tensor
    """[P, K] bool: which of them are real."""
    coverage: Tensor = field(default_factory=lambda: torch.zeros(len(COVERAGE), dtype=torch.int64))
    """[4] int64: at how many positions each of COVERAGE was so."""

    def to(self, device: torch.device) -> SenseTargets:
        """The same on another device."""
        return SenseTargets(
            *(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self))
        )

    def __getitem__(self, rows: slice) -> SenseTargets:
        """Some of the positions; `coverage` stays with the whole."""
        return SenseTargets(
            *(getattr(self, f.name)[rows] for f in fields(self) if f.name != "coverage")
        )

    @staticmethod
    def empty(hidden_size: int) -> SenseTargets:
        """Targets of a batch without sense positions."""
        none = torch.zeros(0)
        return SenseTargets(
            none.long(),
            none,
            torch.zeros(0, hidden_size),
            none,
            none.bool(),
            torch.zeros(0, 1, hidden_size, dtype=torch.bfloat16),
            torch.zeros(0, 1),
            torch.zeros(0, 1).bool(),
        )


SUMS = ("sense", "pull_distance", "num_pull", "push_active", "num_push")
"""Names of the sums below, in order."""


@dataclass(frozen=True)
class SenseLoss:
    """The sense term summed over P positions; the caller divides by global counts."""

    loss: Tensor
    """The weighted sum of SENSE(i)."""
    pull_distance: Tensor
    """Sum of the mean squared distance per dimension to S+, where there is one."""
    num_pull: Tensor
    push_active: Tensor
    """How many senses of S- are within the margin."""
    num_push: Tensor
    grad: Tensor
    """[P, D] float32: derivative of `loss` by the states."""

    def sums(self) -> Tensor:
        """[5] float64, in the order of SUMS."""
        return torch.stack(
            [
                part.double()
                for part in (
                    self.loss,
                    self.pull_distance,
                    self.num_pull,
                    self.push_active,
                    self.num_push,
                )
            ]
        )


def sense_loss(hidden: Tensor, targets: SenseTargets, spec: LossSpec, margin: float) -> SenseLoss:
    """The sense term at P positions. hidden: [P, D] float32, the student's states there in the space of the senses.

    margin: squared distance per dimension. Everything is worked out in float32: senses in bfloat16 are so exactly.
    """
    size, negatives = hidden.shape[1], targets.push.float()
    offset = torch.where(targets.has_pull[:, None], hidden - targets.pull_mean, 0.0)
    distance = (offset.square().sum(dim=1) + targets.pull_spread) / size
    gaps = _squared_distances(hidden, negatives, targets.push_norms) / size
    hinge = torch.where(targets.push_mask, (margin - gaps).clamp_min(0), 0.0)
    num_push = targets.push_mask.sum(dim=1)
    per_position = spec.pull * distance + spec.push * hinge.sum(dim=1) / num_push.clamp_min(1)
    active = (hinge > 0).float()
    num_active = active.sum(dim=1)
    away = (
        torch.bmm(active[:, None], negatives)
        .squeeze(1)
        .addcmul_(num_active[:, None], hidden, value=-1)
    )
    grad = offset.mul_(spec.pull).addcmul_(away, (spec.push / num_push.clamp_min(1))[:, None])
    return SenseLoss(
        (targets.weights * per_position).sum(),
        distance.sum(),
        targets.has_pull.sum(),
        num_active.sum(),
        num_push.sum(),
        grad.mul_((targets.weights * (2 / size))[:, None]),
    )


def _squared_distances(hidden: Tensor, senses: Tensor, norms: Tensor) -> Tensor:
    """|s - h|^2 = |s|^2 - 2 s.h + |h|^2 for [P, D] against [P, K, D] with |s|^2 [P, K] -> [P, K], never below 0."""
    products = torch.bmm(senses, hidden[:, :, None]).squeeze(2)
    return (norms - 2 * products + hidden.square().sum(dim=1, keepdim=True)).clamp_min(0)

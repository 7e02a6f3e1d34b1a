"""The sense term: pulls the student's last hidden state to senses in S+, and pushes it from S-.

    SENSE(i) = pull * mean_{s in S+} |s - h_i|^2 / D
             + push * mean_{a in S-} max(0, margin - |a - h_i|^2 / D)

An empty set contributes 0.
Source: docs/method.md, "The losses" and "Algebra".
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from dskd_ds.spec.loss import LossSpec

COVERAGE = ("synonyms", "antonyms", "neighbours", "nothing")
"""Properties by which sense positions are counted.

"synonyms" and "antonyms": related words with senses were drawn. "neighbours": the index gave senses
to S+ or S-. "nothing": both sets are empty.
"""


@dataclass(frozen=True)
class SenseTargets:
    """The senses that P positions are pulled to and pushed from.

    The pull needs one vector per position, because mean |s - h|^2 = |h - mean|^2 + (mean |s|^2 -
    |mean|^2) and the bracket is a constant. Targets stay in memory for some steps, so the senses of
    S- keep the dictionary's number format.
    """

    positions: Tensor
    """[P] int64, counted through the flattened B * T."""
    weights: Tensor
    """[P] float32: weight of each position in the sum."""
    pull_mean: Tensor
    """[P, D] float32: mean of S+; zeros where S+ is empty. bfloat16 would round it."""
    pull_spread: Tensor
    """[P] float32: mean |s|^2 - |mean|^2 over S+."""
    has_pull: Tensor
    """[P] bool: whether S+ has any sense."""
    push: Tensor
    """[P, K, D] bfloat16 as in the dictionary: the senses of S-, padded with zeros."""
    push_norms: Tensor
    """[P, K] float32: |s|^2 of each sense in S-, read from the dictionary."""
    push_mask: Tensor
    """[P, K] bool: which senses in `push` are not padding."""
    coverage: Tensor = field(default_factory=lambda: torch.zeros(len(COVERAGE), dtype=torch.int64))
    """[4] int64: number of positions with each property in COVERAGE."""

    def to(self, device: torch.device) -> SenseTargets:
        """Return a copy on another device; the copies are asynchronous."""
        tensors = [getattr(self, entry.name) for entry in fields(self)]
        return SenseTargets(*(tensor.to(device, non_blocking=True) for tensor in tensors))

    def __getitem__(self, rows: slice) -> SenseTargets:
        """Return some of the positions, without their `coverage`."""
        names = [entry.name for entry in fields(self) if entry.name != "coverage"]
        return SenseTargets(*(getattr(self, name)[rows] for name in names))

    @staticmethod
    def empty(hidden_size: int) -> SenseTargets:
        """Return the targets of a batch without sense positions."""
        none = torch.zeros(0)
        return SenseTargets(
            positions=none.long(),
            weights=none,
            pull_mean=torch.zeros(0, hidden_size),
            pull_spread=none,
            has_pull=none.bool(),
            push=torch.zeros(0, 1, hidden_size, dtype=torch.bfloat16),
            push_norms=torch.zeros(0, 1),
            push_mask=torch.zeros(0, 1).bool(),
        )


SUMS = ("sense", "pull_distance", "num_pull", "push_active", "num_push")
"""Names of the values of `SenseLoss.sums`, in order."""


@dataclass(frozen=True)
class SenseLoss:
    """The sense term summed over P positions; the caller divides by global counts."""

    loss: Tensor
    """The weighted sum of SENSE(i)."""
    pull_distance: Tensor
    """Sum over positions of the mean squared distance per dimension to S+; an empty S+ adds 0."""
    num_pull: Tensor
    """Number of positions with senses in S+."""
    push_active: Tensor
    """Number of senses in S- within the margin."""
    num_push: Tensor
    """Number of senses in S-."""
    grad: Tensor
    """[P, D] float32: derivative of `loss` by the states."""

    def sums(self) -> Tensor:
        """Return the sums [5] in float64, in the order of SUMS."""
        sums = [self.loss, self.pull_distance, self.num_pull, self.push_active, self.num_push]
        return torch.stack([value.double() for value in sums])


def sense_loss(hidden: Tensor, targets: SenseTargets, spec: LossSpec, margin: float) -> SenseLoss:
    """Return the sense term at P positions.

    It is computed in float32, which holds the bfloat16 senses exactly.

    hidden: [P, D] float32, the student's states at these positions in the space of the senses.
    margin: squared distance per dimension.
    """
    size = hidden.shape[1]
    negatives = targets.push.float()
    offset = torch.where(targets.has_pull[:, None], hidden - targets.pull_mean, 0.0)
    distance = (offset.square().sum(dim=1) + targets.pull_spread) / size
    gaps = _squared_distances(hidden, negatives, targets.push_norms) / size
    hinge = torch.where(targets.push_mask, (margin - gaps).clamp_min(0), 0.0)
    num_push = targets.push_mask.sum(dim=1)
    per_position = spec.pull * distance + spec.push * hinge.sum(dim=1) / num_push.clamp_min(1)
    # The gradient, up to the factor 2 / size: pull * (h - mean), and push times the mean of (a - h)
    # over the senses within the margin.
    active = (hinge > 0).float()
    num_active = active.sum(dim=1)
    away = torch.bmm(active[:, None], negatives).squeeze(1)
    away = away.addcmul_(num_active[:, None], hidden, value=-1)
    push_scale = (spec.push / num_push.clamp_min(1))[:, None]
    grad = offset.mul_(spec.pull).addcmul_(away, push_scale)
    return SenseLoss(
        loss=(targets.weights * per_position).sum(),
        pull_distance=distance.sum(),
        num_pull=targets.has_pull.sum(),
        push_active=num_active.sum(),
        num_push=num_push.sum(),
        grad=grad.mul_((targets.weights * (2 / size))[:, None]),
    )


def _squared_distances(hidden: Tensor, senses: Tensor, norms: Tensor) -> Tensor:
    """Return |s - h|^2 = |s|^2 - 2 s.h + |h|^2, [P, K], never below 0.

    hidden: [P, D]. senses: [P, K, D]. norms: [P, K], |s|^2 of each sense.
    """
    products = torch.bmm(senses, hidden[:, :, None]).squeeze(2)
    return (norms - 2 * products + hidden.square().sum(dim=1, keepdim=True)).clamp_min(0)

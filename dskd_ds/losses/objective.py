"""The whole objective from the student's last hidden state and the head's weight, a chunk of positions at a time.

Logits exist for one chunk only. Both gradients (hidden state and weight) are formed in the forward pass, while the chunk's logits
are there, so nothing of size [positions, vocabulary] is kept for backward.

Under ZeRO-3 the head's weight is partitioned. The objective is therefore a module that owns the parameter (the same object as
the LM head's, and with tied embeddings as the embedding's): DeepSpeed gathers it around this module's forward and backward, and
autograd adds all its gradients before they are reduced (DEEPSPEED.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dskd_ds.losses import token
from dskd_ds.losses.sense import SenseTargets, sense_loss
from dskd_ds.spec.loss import LossSpec
from dskd_ds.teacher.signal import Sampled, TopK

OVERLAP_STRIDE = 8
"""The overlap of top-k sets is measured on every eighth position: a top-k over the vocabulary is dear."""

STATS = ("ce", "kd", "positions", "teacher_mass", "student_mass", "overlap", "overlap_positions",
         "sense", "sense_positions", "pull_distance", "num_pull", "push_active", "num_push")
"""Names of the sums that a forward returns, in order; all-reduced and divided by the caller."""


@dataclass(frozen=True)
class TeacherTargets:
    """The teacher's word on N supervised positions."""

    positions: Tensor
    """[N] int64, through the flattened B * T."""
    targets: Tensor
    """[N] int64: the right tokens."""
    top_k: TopK | None
    """At N positions, for signal `topk`."""
    hidden: Tensor | None
    """[N, D], for signal `exact`."""
    sampled: Sampled | None = None
    """At N positions, for signal `sampled`."""

    def to(self, device: torch.device) -> TeacherTargets:
        """The same on another device."""
        return TeacherTargets(self.positions.to(device, non_blocking=True), self.targets.to(device, non_blocking=True),
                              self.top_k.to(device) if self.top_k else None,
                              self.hidden.to(device, non_blocking=True) if self.hidden is not None else None,
                              self.sampled.to(device) if self.sampled else None)


@dataclass(frozen=True)
class Scales:
    """What each sum is multiplied with before it becomes part of the loss: 1 / global count, times what DeepSpeed divides by."""

    token: float
    sense: float


class DistillObjective(nn.Module):
    """CE + alpha tau^2 KL + lambda SENSE."""

    def __init__(self, head_weight: nn.Parameter, spec: LossSpec, margin: float, teacher_head: Tensor | None = None) -> None:
        """head_weight: [V, D] of the student's LM head. margin: squared distance per dimension.

        teacher_head: frozen [V, D_teacher], for signal `exact`.
        """
        super().__init__()
        self.weight = head_weight
        self.spec, self.margin = spec, margin
        self.teacher_head: Tensor | None
        self.register_buffer("teacher_head", teacher_head, persistent=False)

    def forward(self, hidden: Tensor, teacher: TeacherTargets, senses: SenseTargets, scales: Scales) -> tuple[Tensor, Tensor]:
        """hidden: [B, T, D]. Returns the loss to backpropagate, and the sums named in STATS [len(STATS)] float64."""
        flat = hidden.flatten(0, 1)
        token_loss: Any = _TokenLoss.apply
        loss, stats = token_loss(flat[teacher.positions], self.weight, teacher, self, scales.token)
        sums = sense_loss(flat[senses.positions], senses, self.spec, self.margin)
        # Every rank runs the same graph, with or without sense positions: their sum is then a zero that depends on hidden.
        loss = loss + self.spec.sense_weight * scales.sense * sums.loss
        values = [sums.loss.detach(), sums.loss.new_tensor(len(senses.positions)), sums.pull_distance, sums.num_pull,
                  sums.push_active, sums.num_push]
        return loss, torch.cat([stats, torch.stack([value.double() for value in values])])

    def chunk(self, logits: Tensor, teacher: TeacherTargets, rows: slice) -> tuple[token.RowLoss, token.RowLoss, Tensor]:
        """CE and KL of some positions, and their sums (the first seven of STATS)."""
        tau = self.spec.temperature
        ce = token.cross_entropy(logits, teacher.targets[rows])
        if teacher.top_k is not None:
            top_k = TopK(teacher.top_k.ids[rows], teacher.top_k.logits[rows], teacher.top_k.tail[rows])
            kd = token.tail_kl(logits, top_k, tau)
            ids, mass = top_k.ids, top_k.log_probs(tau, 0)[0].exp().sum(dim=1)
        else:
            assert teacher.hidden is not None
            assert self.teacher_head is not None
            teacher_logits = (teacher.hidden[rows].to(self.teacher_head.dtype) @ self.teacher_head.T).float()
            kd = token.full_kl(logits, teacher_logits, tau)
            ids = teacher_logits.topk(self.spec.top_k, dim=1).indices
            mass = token.student_mass(teacher_logits, ids, tau)
        some = slice(None, None, OVERLAP_STRIDE)
        overlap = token.overlap(logits[some], ids[some])
        values = [ce.values.sum(), kd.values.sum(), ce.values.new_tensor(len(ids)), mass.sum(),
                  token.student_mass(logits, ids, tau).sum(), overlap.sum(), overlap.new_tensor(len(overlap))]
        return ce, kd, torch.stack([value.double() for value in values])


class _TokenLoss(torch.autograd.Function):
    """Sum of CE and KL over positions. Gradients are formed in forward; backward multiplies both by what comes in."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, teacher: TeacherTargets, objective: DistillObjective,
                scale: float) -> tuple[Tensor, Tensor]:
        spec = objective.spec
        kd_factor = spec.kd_weight * spec.temperature**2
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        stats = torch.zeros(7, dtype=torch.float64, device=hidden.device)
        for start in range(0, len(hidden), spec.chunk_positions):
            rows = slice(start, start + spec.chunk_positions)
            ce, kd, sums = objective.chunk((hidden[rows] @ weight.T).float(), teacher, rows)
            stats += sums
            grad_logits = ce.grad.add_(kd.grad, alpha=kd_factor).mul_(scale).to(weight.dtype)
            if grad_hidden is not None:
                torch.mm(grad_logits, weight, out=grad_hidden[rows])
            if grad_weight is not None:
                grad_weight += grad_logits.T @ hidden[rows]
        ctx.save_for_backward(grad_hidden, grad_weight.to(weight.dtype) if grad_weight is not None else None)
        ctx.mark_non_differentiable(stats)
        return (scale * (stats[0] + kd_factor * stats[1])).float(), stats

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad_hidden, grad_weight = ctx.saved_tensors
        grad = grads[0]
        return (grad_hidden * grad.to(grad_hidden.dtype) if grad_hidden is not None else None,
                grad_weight * grad.to(grad_weight.dtype) if grad_weight is not None else None, None, None, None)

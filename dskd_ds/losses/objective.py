"""The whole objective from the student's last hidden state and the head's weight, a chunk of positions at a time.

Logits exist for one chunk only, in buffers that all chunks share. All gradients (hidden state, weight, map) are formed in the forward
pass, while the chunk's logits are there. To form them in backward would take the products of the logits a second time (1.41 of the time
here: 2,048 positions, top-k signal, one thread) and save nothing: backward follows at once, and the gradients must exist then.

Under ZeRO-3 the head's weight is partitioned. The objective is therefore a module that owns the parameter (the same object as
the LM head's, and with tied embeddings as the embedding's): DeepSpeed gathers it around this module's forward and backward, and
autograd adds all its gradients before they are reduced (docs/deepspeed.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dskd_ds.losses import sense
from dskd_ds.losses.chunk import STATS as TOKEN_STATS
from dskd_ds.losses.chunk import Chunks, TeacherTargets
from dskd_ds.losses.sense import SenseTargets, sense_loss
from dskd_ds.models.head import PLAIN, FrozenHead, HeadForm
from dskd_ds.spec.loss import LossSpec

__all__ = ["STATS", "DistillObjective", "Scales", "TeacherTargets"]

STATS = (*TOKEN_STATS, *sense.SUMS, "sense_positions")
"""Names of the sums that a forward returns, in order; all-reduced and divided by the caller."""

PRODUCT_ROWS = 4_096
"""Rows of the head whose gradient from one chunk exists in a half format at a time, before float32 takes it up: 32 MiB where D is 4,096.
Of the whole head of Llama-3-8B it would be 1 GiB."""


@dataclass(frozen=True)
class Scales:
    """What each sum is multiplied with before it becomes part of the loss: 1 / global count, times what DeepSpeed divides by."""

    token: float
    sense: float


class DistillObjective(nn.Module):
    """CE + alpha tau^2 KL + lambda SENSE."""

    def __init__(
        self,
        head_weight: nn.Parameter,
        spec: LossSpec,
        margin: float,
        form: HeadForm = PLAIN,
        teacher_head: FrozenHead | None = None,
        sense_map: nn.Parameter | None = None,
    ) -> None:
        """head_weight: [V, D] of the student's LM head, `form` what it does to the product. margin: squared distance per dimension.

        teacher_head: [V, D_teacher], for signal `exact`. sense_map: [D_teacher, D], where the senses' space is not the student's.
        """
        super().__init__()
        self.weight, self.form = head_weight, form
        self.spec, self.margin = spec, margin
        self.sense_map = sense_map
        self.teacher_head: Tensor | None
        self.register_buffer(
            "teacher_head", teacher_head.weight if teacher_head else None, persistent=False
        )
        self.teacher_form = teacher_head.form if teacher_head else PLAIN

    def frozen_head(self) -> FrozenHead | None:
        """The copy of the teacher's head, for signal `exact`."""
        return (
            FrozenHead(self.teacher_head, self.teacher_form)
            if self.teacher_head is not None
            else None
        )

    def forward(
        self, hidden: Tensor, teacher: TeacherTargets, senses: SenseTargets, scales: Scales
    ) -> tuple[Tensor, Tensor]:
        """hidden: [B, T, D]. Returns the loss to backpropagate (once), and the sums named in STATS [len(STATS)] float64."""
        fused: Any = _Fused.apply
        loss, stats = fused(
            hidden.flatten(0, 1), self.weight, self.sense_map, self, teacher, senses, scales
        )
        return loss, stats


@dataclass
class _Gradients:
    """What backward hands on: derivatives by the inputs of the fused function, None where none is wanted."""

    hidden: Tensor | None
    weight: Tensor | None
    """float32 whatever the weight is: it adds up over all chunks."""
    sense_map: Tensor | None


class _Fused(torch.autograd.Function):
    """The loss and its sums; backward multiplies the gradients that forward formed by what comes in."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        sense_map: Tensor | None,
        objective: DistillObjective,
        teacher: TeacherTargets,
        senses: SenseTargets,
        scales: Scales,
    ) -> tuple[Tensor, Tensor]:
        wanted = [
            tensor if needed else None
            for tensor, needed in zip(
                (hidden, weight, sense_map), ctx.needs_input_grad, strict=False
            )
        ]
        grads = _Gradients(
            *(
                torch.zeros_like(t, dtype=d) if t is not None else None
                for t, d in zip(wanted, (hidden.dtype, torch.float32, torch.float32), strict=True)
            )
        )
        token_sums = _token_terms(hidden, weight, objective, teacher, scales.token, grads)
        sense_sums = _sense_term(hidden, sense_map, objective, senses, scales.sense, grads)
        spec = objective.spec
        loss = (
            scales.token * (token_sums[0] + spec.kd_weight * spec.temperature**2 * token_sums[1])
            + spec.sense_weight * scales.sense * sense_sums[0]
        )
        stats = torch.cat(
            [token_sums, sense_sums, sense_sums.new_full((1,), len(senses.positions))]
        )
        ctx.grads, ctx.dtypes = (
            grads,
            (weight.dtype, sense_map.dtype if sense_map is not None else None),
        )
        ctx.mark_non_differentiable(stats)
        return loss.float(), stats

    @staticmethod
    def backward(ctx: Any, *incoming: Any) -> Any:
        assert ctx.grads is not None, (
            "the objective's backward runs once: its gradients are handed on, not kept"
        )
        grads, ctx.grads = ctx.grads, None
        weight_dtype, map_dtype = ctx.dtypes
        by_hidden, by_weight, by_map = (
            g.mul_(incoming[0].to(g.dtype)) if g is not None else None
            for g in (grads.hidden, grads.weight, grads.sense_map)
        )
        return (
            by_hidden,
            by_weight.to(weight_dtype) if by_weight is not None else None,
            by_map.to(map_dtype) if by_map is not None else None,
            None,
            None,
            None,
            None,
        )


def _token_terms(
    hidden: Tensor,
    weight: Tensor,
    objective: DistillObjective,
    teacher: TeacherTargets,
    scale: float,
    grads: _Gradients,
) -> Tensor:
    """CE and KL over all supervised positions: adds to the gradients, returns the sums named in TOKEN_STATS."""
    chunks = Chunks(
        objective.spec, objective.form, weight, objective.teacher_head, objective.teacher_form
    )
    sums = torch.zeros(len(TOKEN_STATS), dtype=torch.float64, device=hidden.device)
    for start in range(0, len(teacher.positions), objective.spec.chunk_positions):
        part = teacher[start : start + objective.spec.chunk_positions]
        states = hidden.index_select(0, part.positions)
        grad, stats = chunks.loss(states, part, scale)
        sums += stats
        if grads.hidden is not None:
            grads.hidden.index_copy_(0, part.positions, grad @ weight)
        if grads.weight is not None:
            _add_product_(grads.weight, grad, states)
    return sums


def _add_product_(total: Tensor, grad: Tensor, states: Tensor) -> None:
    """total [V, D] float32 += grad.T @ states, of [C, V] and [C, D] in the head's format."""
    if grad.dtype == total.dtype:
        total.addmm_(grad.T, states)
        return
    for rows, columns in zip(
        total.split(PRODUCT_ROWS), grad.split(PRODUCT_ROWS, dim=1), strict=True
    ):
        rows.add_(columns.T @ states)


def _sense_term(
    hidden: Tensor,
    sense_map: Tensor | None,
    objective: DistillObjective,
    senses: SenseTargets,
    scale: float,
    grads: _Gradients,
) -> Tensor:
    """The sense term over all its positions: adds to the gradients, returns the sums named in sense.SUMS."""
    sums = torch.zeros(len(sense.SUMS), dtype=torch.float64, device=hidden.device)
    for start in range(0, len(senses.positions), objective.spec.chunk_positions):
        part = senses[start : start + objective.spec.chunk_positions]
        states = hidden.index_select(0, part.positions).float()
        loss = sense_loss(
            states if sense_map is None else states @ sense_map.float().T,
            part,
            objective.spec,
            objective.margin,
        )
        sums += loss.sums()
        grad = loss.grad.mul_(objective.spec.sense_weight * scale)
        if grads.sense_map is not None:
            grads.sense_map.addmm_(grad.T, states)
        if grads.hidden is not None:
            by_states = grad if sense_map is None else grad @ sense_map.float()
            grads.hidden.index_add_(0, part.positions, by_states.to(hidden.dtype))
    return sums

"""Computes the whole objective from the student's last hidden state and the head's weight.

Logits exist for one chunk only, in buffers that all chunks share. All gradients (hidden state,
weight, map) are formed in the forward pass, while the chunk's logits exist. Forming them in
backward would compute the logits a second time (1.41 times the time: 2,048 positions, top-k signal,
one thread) and save nothing: backward follows at once, and the gradients must exist then.

Under ZeRO-3 the head's weight is partitioned. The objective is therefore a module that owns the
parameter (the same object as the LM head's, and with tied embeddings as the embedding's): DeepSpeed
gathers it around this module's forward and backward, and autograd adds all its gradients before
they are reduced (docs/deepspeed.md, "Fused losses and partitioned weights").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dskd_ds.losses import sense
from dskd_ds.losses.sense import SenseTargets, sense_loss
from dskd_ds.models.head import PLAIN, FrozenHead, HeadForm
from dskd_ds.objective.chunk import STATS as TOKEN_STATS
from dskd_ds.objective.chunk import Chunks
from dskd_ds.objective.cross_entropy import cross_entropy_sum
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.spec.loss import LossSpec

STATS = (*TOKEN_STATS, *sense.SUMS, "sense_positions")
"""Names of the sums that a forward returns, in order; the caller all-reduces and divides them."""

PRODUCT_ROWS = 4_096
"""Rows of the head whose gradient from one chunk exists in a half format at a time, before it is
added in float32: 32 MiB at D = 4,096. For the whole head of Llama-3-8B it would be 1 GiB."""


@dataclass(frozen=True)
class Scales:
    """Factors on the sums of a loss: 1 / global count, times what DeepSpeed divides by."""

    token: float
    sense: float
    share_done: float = 0.0
    """Share of the run before this step, 0..1; weights that fall during the run depend on it."""


class DistillObjective(nn.Module):
    """ce_weight CE + alpha tau^2 KL + lambda SENSE."""

    def __init__(
        self,
        head_weight: nn.Parameter,
        spec: LossSpec,
        margin: float,
        form: HeadForm = PLAIN,
        teacher_head: FrozenHead | None = None,
        sense_map: nn.Parameter | None = None,
    ) -> None:
        """Make the objective of a student.

        head_weight: [V, D] of the student's LM head; `form` is what it does to the product. margin:
        squared distance per dimension. teacher_head: [V, D_teacher], for kinds that need it
        (signals/kind.py). sense_map: [D_teacher, D], where the senses' space is not the student's.
        """
        super().__init__()
        self.weight, self.form = head_weight, form
        self.spec, self.margin = spec, margin
        self.sense_map = sense_map
        self.teacher_head: Tensor | None
        teacher_weight = teacher_head.weight if teacher_head else None
        # Not persistent: checkpoints would otherwise hold the teacher's head.
        self.register_buffer("teacher_head", teacher_weight, persistent=False)
        self.teacher_form = teacher_head.form if teacher_head else PLAIN

    def frozen_head(self) -> FrozenHead | None:
        """Return the copy of the teacher's head, if the signal kind needs one."""
        if self.teacher_head is None:
            return None
        return FrozenHead(self.teacher_head, self.teacher_form)

    def forward(
        self,
        hidden: Tensor,
        teacher: TeacherTargets,
        senses: SenseTargets | None = None,
        scales: Scales | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute the loss of one micro-batch.

        hidden: [B, T, D]. Returns the loss to backpropagate (once), and the sums named in STATS
        [len(STATS)] float64. Without `senses` and `scales`: the sum of the cross-entropy and the
        number of positions, both float64 without a gradient.
        """
        if senses is None or scales is None:
            return cross_entropy_sum(hidden.flatten(0, 1), self.weight, self.form, teacher)
        fused: Any = _Fused.apply
        loss, stats = fused(
            hidden.flatten(0, 1), self.weight, self.sense_map, self, teacher, senses, scales
        )
        return loss, stats


@dataclass
class _Gradients:
    """Gradients of the fused function's inputs; None for an input that needs none."""

    hidden: Tensor | None
    weight: Tensor | None
    """float32 whatever the weight's format: it is summed over all chunks."""
    sense_map: Tensor | None
    """float32 for the same reason."""

    @staticmethod
    def zeros(
        hidden: Tensor, weight: Tensor, sense_map: Tensor | None, needed: tuple[bool, bool, bool]
    ) -> _Gradients:
        """Return zeros for the inputs that need a gradient."""

        def zeros_for(tensor: Tensor | None, is_needed: bool, dtype: torch.dtype) -> Tensor | None:
            if tensor is None or not is_needed:
                return None
            return torch.zeros_like(tensor, dtype=dtype)

        return _Gradients(
            zeros_for(hidden, needed[0], hidden.dtype),
            zeros_for(weight, needed[1], torch.float32),
            zeros_for(sense_map, needed[2], torch.float32),
        )


class _Fused(torch.autograd.Function):
    """The loss and its sums; backward scales the gradients that forward formed."""

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
        grads = _Gradients.zeros(hidden, weight, sense_map, ctx.needs_input_grad[:3])
        token_sums = _token_terms(hidden, weight, objective, teacher, scales.token, grads)
        sense_sums = _sense_term(hidden, sense_map, objective, senses, scales.sense, grads)
        spec = objective.spec
        ce, kd = token_sums[0], token_sums[1]
        token_loss = scales.token * (
            spec.ce_weight * ce + spec.kd_weight * spec.temperature**2 * kd
        )
        loss = token_loss + spec.sense_weight * scales.sense * sense_sums[0]
        num_sense_positions = sense_sums.new_full((1,), len(senses.positions))
        stats = torch.cat([token_sums, sense_sums, num_sense_positions])
        ctx.grads = grads
        ctx.weight_dtype = weight.dtype
        ctx.map_dtype = None if sense_map is None else sense_map.dtype
        ctx.mark_non_differentiable(stats)
        return loss.float(), stats

    @staticmethod
    def backward(ctx: Any, *incoming: Any) -> Any:
        assert ctx.grads is not None, (
            "the objective's backward runs once: its gradients are not kept"
        )
        grads, ctx.grads = ctx.grads, None
        scale = incoming[0]
        for gradient in (grads.hidden, grads.weight, grads.sense_map):
            if gradient is not None:
                gradient.mul_(scale.to(gradient.dtype))
        by_weight = None if grads.weight is None else grads.weight.to(ctx.weight_dtype)
        by_map = None if grads.sense_map is None else grads.sense_map.to(ctx.map_dtype)
        return grads.hidden, by_weight, by_map, None, None, None, None


def _token_terms(
    hidden: Tensor,
    weight: Tensor,
    objective: DistillObjective,
    teacher: TeacherTargets,
    scale: float,
    grads: _Gradients,
) -> Tensor:
    """Add the gradients of CE and KL; return the sums named in TOKEN_STATS."""
    spec = objective.spec
    chunks = Chunks(spec, objective.form, weight, objective.teacher_head, objective.teacher_form)
    sums = torch.zeros(len(TOKEN_STATS), dtype=torch.float64, device=hidden.device)
    for start in range(0, len(teacher.positions), spec.chunk_positions):
        chunk = teacher[start : start + spec.chunk_positions]
        states = hidden.index_select(0, chunk.positions)
        grad, stats = chunks.loss(states, chunk, scale)
        sums += stats
        if grads.hidden is not None:
            # Each position comes once, and the sense term adds to it later: a copy is enough.
            grads.hidden.index_copy_(0, chunk.positions, grad @ weight)
        if grads.weight is not None:
            _add_product_(grads.weight, grad, states)
    return sums


def _add_product_(total: Tensor, grad: Tensor, states: Tensor) -> None:
    """Add grad.T @ states, of [C, V] and [C, D] in the head's format, to total [V, D] float32."""
    if grad.dtype == total.dtype:
        total.addmm_(grad.T, states)
        return
    columns_by_rows = grad.split(PRODUCT_ROWS, dim=1)
    for rows, columns in zip(total.split(PRODUCT_ROWS), columns_by_rows, strict=True):
        rows.add_(columns.T @ states)


def _sense_term(
    hidden: Tensor,
    sense_map: Tensor | None,
    objective: DistillObjective,
    senses: SenseTargets,
    scale: float,
    grads: _Gradients,
) -> Tensor:
    """Add the gradients of the sense term; return the sums named in sense.SUMS."""
    spec = objective.spec
    sums = torch.zeros(len(sense.SUMS), dtype=torch.float64, device=hidden.device)
    for start in range(0, len(senses.positions), spec.chunk_positions):
        chunk = senses[start : start + spec.chunk_positions]
        states = hidden.index_select(0, chunk.positions).float()
        # In float32, which holds the senses exactly; the student's states may be in a half format.
        mapped = states if sense_map is None else states @ sense_map.float().T
        loss = sense_loss(mapped, chunk, spec, objective.margin)
        sums += loss.sums()
        grad = loss.grad.mul_(spec.sense_weight * scale)
        if grads.sense_map is not None:
            grads.sense_map.addmm_(grad.T, states)
        if grads.hidden is not None:
            by_states = grad if sense_map is None else grad @ sense_map.float()
            grads.hidden.index_add_(0, chunk.positions, by_states.to(hidden.dtype))
    return sums

"""Computes cross-entropy and divergence of a chunk of positions, and their gradient by the logits.

Logits of student and teacher live in buffers that all chunks share.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dskd_ds.losses import token
from dskd_ds.losses.token import Scale
from dskd_ds.models.head import HeadForm
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.signals.kind import signal_kind
from dskd_ds.spec.loss import LossSpec

AGREEMENT_STRIDE = 8
"""Masses and overlap of the top-k sets are measured at every eighth position: a top-k over the
vocabulary is expensive."""

BLOCK_ROWS = 32
"""Rows of a chunk's logits that a CPU works on at a time: the many passes over them then stay in
its cache, and what they need beside the buffers stays small. On other devices a chunk is one block,
as smaller ones would launch more kernels (not measured). A multiple of AGREEMENT_STRIDE."""

STATS = ("ce", "kd", *token.AGREEMENT, "agreement_positions")
"""Names of a chunk's sums. The first two are weighted sums over its positions. The others are over
`agreement_positions`, and stay 0 for signal kinds without a top k."""


class Chunks:
    """Computes chunks, one after another. A returned gradient is valid until the next call."""

    def __init__(
        self,
        spec: LossSpec,
        form: HeadForm,
        weight: Tensor,
        teacher_head: Tensor | None,
        teacher_form: HeadForm,
    ) -> None:
        """weight: [V, D], the student's head. teacher_head: [Vt, Dt]; its first V rows are used."""
        self._spec, self._form, self._weight = spec, form, weight
        self._kind = signal_kind(spec)
        self._teacher_head = None if teacher_head is None else teacher_head[: len(weight)]
        self._teacher_form = teacher_form
        self._buffers: dict[str, Tensor] = {}

    def loss(self, states: Tensor, teacher: TeacherTargets, scale: float) -> tuple[Tensor, Tensor]:
        """Return one chunk's gradient and sums.

        states: [C, D] of the student. The gradient is that of `scale * (ce_weight CE + alpha tau^2
        KL)` by the product `states @ weight.T` [C, V]. The sums are those named in STATS.
        """
        logits = self._product("student", states, self._weight)
        teacher_logits = self._teacher_product(teacher)
        stats = torch.zeros(len(STATS), dtype=torch.float64, device=logits.device)
        num_rows = BLOCK_ROWS if logits.device.type == "cpu" else len(logits)
        for start in range(0, len(logits), num_rows):
            rows = slice(start, start + num_rows)
            block = None if teacher_logits is None else teacher_logits[rows]
            stats += self._block_(logits[rows], block, teacher[rows], scale)
        return logits.to(self._weight.dtype), stats

    def _teacher_product(self, teacher: TeacherTargets) -> Tensor | None:
        """Return the teacher's product [C, Vt]; None if the signal brings no states for it."""
        states = self._kind.teacher_states(teacher.signal)
        if states is None:
            return None
        assert self._teacher_head is not None
        return self._product("teacher", states.to(self._teacher_head.dtype), self._teacher_head)

    def _block_(
        self, product: Tensor, teacher_product: Tensor | None, teacher: TeacherTargets, scale: float
    ) -> Tensor:
        """Turn a few rows of the product into its gradient, in place; return the sums of STATS."""
        logits = self._form.apply_(product)
        teacher_logits = None
        if teacher_product is not None:
            teacher_logits = self._teacher_form.apply_(teacher_product)
        # The divergence overwrites the logits, so everything else is read from them before it.
        slope = self._form.slope(logits)
        stats = self._agreement(logits, teacher_logits, teacher)
        right = logits.gather(1, teacher.targets[:, None]).squeeze(1)
        token_scale = scale * self._form.scale
        ce_scale = self._spec.ce_weight * token_scale
        log_total, divergence, grad = self._both_losses_(
            logits, teacher_logits, teacher, token_scale=token_scale, ce_scale=ce_scale
        )
        ce = log_total - right
        grad.scatter_add_(1, teacher.targets[:, None], grad.new_full((len(grad), 1), -ce_scale))
        if slope is not None:
            grad.mul_(slope)
        if teacher.kd_weights is not None:
            divergence = divergence * teacher.kd_weights
        if teacher.weights is not None:
            ce, divergence = ce * teacher.weights, divergence * teacher.weights
            grad.mul_(teacher.weights[:, None])
        return torch.cat([torch.stack([ce.sum().double(), divergence.sum().double()]), stats])

    def _both_losses_(
        self,
        logits: Tensor,
        teacher_logits: Tensor | None,
        teacher: TeacherTargets,
        *,
        token_scale: float,
        ce_scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-sum-exp [C] of the logits, the divergence [C], and the gradient [C, V].

        The gradient is of both losses, but for the cross-entropy's right token. It takes the
        memory of the logits.
        """
        tau = self._spec.temperature
        # tau^2 of the loss, and 1/tau because the divergence is of logits / tau.
        kd_scale: Scale = self._spec.kd_weight * tau * token_scale
        if teacher.kd_weights is not None:
            kd_scale = kd_scale * teacher.kd_weights[:, None]
        divergence_ = self._kind.divergence_
        if tau == 1.0:  # cross-entropy needs the same softmax: one pass serves both
            kd = divergence_(logits, teacher.signal, teacher_logits, kd_scale, ce_scale)
            return kd.log_total, kd.values, kd.grad
        kd = divergence_(logits / tau, teacher.signal, teacher_logits, kd_scale, 0.0)
        plain = token.own_softmax_(logits, ce_scale)
        return plain.log_total, kd.values, plain.grad.add_(kd.grad)

    def _agreement(
        self, logits: Tensor, teacher_logits: Tensor | None, teacher: TeacherTargets
    ) -> Tensor:
        """Return the sums of STATS after the first two, over some rows. Logits: at tau 1."""
        some = slice(None, None, AGREEMENT_STRIDE)
        taus = (self._spec.temperature, 1.0)
        top_k = self._kind.agreement(teacher.signal, teacher_logits, some)
        if top_k is None:
            return logits.new_zeros(len(STATS) - 2, dtype=torch.float64)
        ids, teacher_masses = top_k
        per_row = [*teacher_masses, *token.agreement(logits[some], ids, taus)]
        sums = torch.stack(per_row).double()
        # new_full fills on the device; a tensor made from a Python number would be copied, and
        # waited for.
        return torch.cat([sums.sum(dim=1), sums.new_full((1,), len(ids))])

    def _product(self, name: str, states: Tensor, weight: Tensor) -> Tensor:
        """Return states @ weight.T [C, V] in the float32 buffer `name`, made by the first chunk."""
        if name not in self._buffers:
            shape = len(states), len(weight)
            self._buffers[name] = states.new_empty(shape, dtype=torch.float32)
        product = self._buffers[name][: len(states)]
        if states.dtype == torch.float32:
            return torch.mm(states, weight.T, out=product)
        return product.copy_(states @ weight.T)

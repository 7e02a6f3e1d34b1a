"""One chunk of positions: logits of student and teacher in buffers that all chunks share, the signal's loss, its gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dskd_ds.losses import token
from dskd_ds.losses.distributions import Sampled, TopK
from dskd_ds.models.head import HeadForm
from dskd_ds.spec.loss import LossSpec

AGREEMENT_STRIDE = 8
"""Masses and overlap of top-k sets are measured on every eighth position: a top-k over the vocabulary is dear."""

BLOCK_ROWS = 32
"""Rows of a chunk's logits that a CPU works on at a time: their many passes then stay in its cache, and what they need beside the
buffers stays small. Elsewhere a chunk is one block: smaller ones would be more kernels to launch (nobody has measured it). A multiple of
AGREEMENT_STRIDE."""

STATS = ("ce", "kd", *token.AGREEMENT, "agreement_positions")
"""Names of a chunk's sums; all but the first two are over `agreement_positions`, and are there for `topk` and `exact`."""


@dataclass(frozen=True)
class TeacherTargets:
    """The teacher's word on N supervised positions: one of the signals, or none for `hidden`."""

    positions: Tensor
    """[N] int64, through the flattened B * T; each once."""
    targets: Tensor
    """[N] int64: the right tokens."""
    top_k: TopK | None = None
    """For signal `topk`."""
    hidden: Tensor | None = None
    """[N, D_teacher], for signal `exact`."""
    sampled: Sampled | None = None
    """For signal `sampled`."""

    def to(self, device: torch.device) -> TeacherTargets:
        """The same on another device."""
        return TeacherTargets(
            self.positions.to(device, non_blocking=True),
            self.targets.to(device, non_blocking=True),
            self.top_k.to(device) if self.top_k else None,
            self.hidden.to(device, non_blocking=True) if self.hidden is not None else None,
            self.sampled.to(device) if self.sampled else None,
        )

    def __getitem__(self, rows: slice) -> TeacherTargets:
        """Some of the positions."""
        top_k, sampled = self.top_k, self.sampled
        return TeacherTargets(
            self.positions[rows],
            self.targets[rows],
            top_k.rows(rows) if top_k else None,
            self.hidden[rows] if self.hidden is not None else None,
            sampled.rows(rows) if sampled else None,
        )


class Chunks:
    """Losses of chunks, one after another. What `loss` returns lies in a buffer and holds until the next call."""

    def __init__(
        self,
        spec: LossSpec,
        form: HeadForm,
        weight: Tensor,
        teacher_head: Tensor | None,
        teacher_form: HeadForm,
    ) -> None:
        """weight: [V, D] of the student's head; teacher_head: [Vt, Dt]. Rows of it that the student lacks are left out."""
        self._spec, self._form, self._weight = spec, form, weight
        self._teacher_head = teacher_head[: len(weight)] if teacher_head is not None else None
        self._teacher_form = teacher_form
        self._buffers: dict[str, Tensor] = {}

    def loss(self, states: Tensor, teacher: TeacherTargets, scale: float) -> tuple[Tensor, Tensor]:
        """states: [C, D] of the student. Returns d(scale * (CE + alpha tau^2 KL)) / d(product) [C, V] and the sums of STATS."""
        logits = self._product("student", states, self._weight)
        of_teacher: Tensor | None = None
        if teacher.hidden is not None:
            assert self._teacher_head is not None
            of_teacher = self._product(
                "teacher", teacher.hidden.to(self._teacher_head.dtype), self._teacher_head
            )
        stats = torch.zeros(len(STATS), dtype=torch.float64, device=logits.device)
        num_rows = BLOCK_ROWS if logits.device.type == "cpu" else len(logits)
        for start in range(0, len(logits), num_rows):
            rows = slice(start, start + num_rows)
            stats += self._block_(
                logits[rows],
                of_teacher[rows] if of_teacher is not None else None,
                teacher[rows],
                scale,
            )
        return logits.to(self._weight.dtype), stats

    def _block_(
        self, product: Tensor, teacher_product: Tensor | None, teacher: TeacherTargets, scale: float
    ) -> Tensor:
        """Turn a few rows of the product into its gradient, in place; returns the sums of STATS."""
        tau, logits = self._spec.temperature, self._form.apply_(product)
        teacher_logits = (
            self._teacher_form.apply_(teacher_product) if teacher_product is not None else None
        )
        slope = self._form.slope(logits)
        stats = self._agreement(logits, teacher_logits, teacher)
        right = logits.gather(1, teacher.targets[:, None]).squeeze(1)
        own = scale * self._form.scale
        factor = (
            self._spec.kd_weight * tau * own
        )  # tau^2, and 1/tau because the divergence is of logits / tau
        if tau == 1.0:
            kd = self._divergence_(logits, teacher_logits, teacher, factor, own)
            ce, grad = kd.log_total - right, kd.grad
        else:
            kd = self._divergence_(logits / tau, teacher_logits, teacher, factor, 0.0)
            plain = token.own_softmax_(logits, own)
            ce, grad = plain.log_total - right, plain.grad.add_(kd.grad)
        grad.scatter_add_(1, teacher.targets[:, None], grad.new_full((len(grad), 1), -own))
        if slope is not None:
            grad.mul_(slope)
        return torch.cat([torch.stack([ce.sum().double(), kd.values.sum().double()]), stats])

    def _divergence_(
        self,
        logits: Tensor,
        teacher_logits: Tensor | None,
        teacher: TeacherTargets,
        factor: float,
        own: float,
    ) -> token.RowLoss:
        """The signal's loss of logits at the temperature (overwritten); the teacher's are not at it yet (overwritten too)."""
        kind, tau = self._spec.divergence, self._spec.temperature
        if teacher.top_k is not None:
            return token.tail_divergence_(
                logits, teacher.top_k.ids, *teacher.top_k.log_probs(tau, 0), kind, factor, own
            )
        if teacher_logits is not None:
            return token.full_divergence_(logits, teacher_logits.div_(tau), kind, factor, own)
        if teacher.sampled is not None:
            return token.sampled_kl_(logits, teacher.sampled, factor, own)
        return token.own_softmax_(logits, own)

    def _agreement(
        self, logits: Tensor, teacher_logits: Tensor | None, teacher: TeacherTargets
    ) -> Tensor:
        """The sums of STATS after the first two, over some of the rows. Both logits are at temperature 1."""
        some, taus = slice(None, None, AGREEMENT_STRIDE), (self._spec.temperature, 1.0)
        if teacher.top_k is not None:
            top_k = teacher.top_k.rows(some)
            last = top_k.tail.shape[1] - 1  # of temperature 1 (link/messages.py)
            masses = [
                top_k.log_probs(tau, column)[0].exp().sum(dim=1)
                for tau, column in zip(taus, (0, last), strict=True)
            ]
            ids = top_k.ids
        elif teacher_logits is not None:
            values, ids = teacher_logits[some].topk(
                min(self._spec.top_k, teacher_logits.shape[1]), dim=1
            )
            masses = token.masses(values, teacher_logits[some], taus)
        else:
            return logits.new_zeros(len(STATS) - 2, dtype=torch.float64)
        per_row = torch.stack([*masses, *token.agreement(logits[some], ids, taus)]).double()
        return torch.cat(
            [per_row.sum(dim=1), per_row.new_full((1,), len(ids))]
        )  # filled there: a copy would wait for the device

    def _product(self, name: str, states: Tensor, weight: Tensor) -> Tensor:
        """states @ weight.T [C, V] as float32, in the buffer `name`, which the first (largest) chunk makes."""
        if name not in self._buffers:
            self._buffers[name] = states.new_empty(len(states), len(weight), dtype=torch.float32)
        product = self._buffers[name][: len(states)]
        return (
            torch.mm(states, weight.T, out=product)
            if states.dtype == torch.float32
            else product.copy_(states @ weight.T)
        )

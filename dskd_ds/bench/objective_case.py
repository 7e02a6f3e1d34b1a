"""The fused objective and a dense reference: the same loss by autograd over all logits at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dskd_ds.losses.distributions import TopK
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.models.head import FrozenHead
from dskd_ds.objective.fused import DistillObjective, Scales
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.signals.exact import TeacherStates
from dskd_ds.signals.parts.chunks import concatenate
from dskd_ds.signals.parts.top_k import take_top_k
from dskd_ds.spec.loss import LossSpec, SignalName

VOCAB, SIZE = 49_152, 576
"""Vocabulary and hidden size of SmolLM2."""
TOP_K = 64
KD_WEIGHT = 0.7


@dataclass(frozen=True)
class Case:
    """The objective's input: the student's states and head, and the teacher's signal."""

    hidden: Tensor
    """[N, D]"""
    head: nn.Parameter
    """[V, D]"""
    targets: TeacherTargets
    teacher_head: Tensor | None
    """[V, D]; only the signal `exact` has one."""

    def first(self, count: int) -> Case:
        """Return the first `count` positions."""
        return Case(
            hidden=self.hidden[:count].detach().requires_grad_(),
            head=self.head,
            targets=self.targets[:count],
            teacher_head=self.teacher_head,
        )

    def clear_gradients(self) -> None:
        """Drop the gradients of states and head."""
        self.hidden.grad = self.head.grad = None

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Return the gradients of states [N, D] and head [V, D], which must exist."""
        assert self.hidden.grad is not None
        assert self.head.grad is not None
        return self.hidden.grad, self.head.grad


def random_case(signal: SignalName, num_positions: int) -> Case:
    """Return random positions whose logits are spread as widely as a language model's."""
    generator = torch.Generator().manual_seed(0)
    hidden, teacher_hidden = (
        torch.randn(num_positions, SIZE, generator=generator) for _ in range(2)
    )
    # The logits get a standard deviation of 3.
    head, teacher_head = (
        torch.randn(VOCAB, SIZE, generator=generator) * (3 / math.sqrt(SIZE)) for _ in range(2)
    )
    if signal == "topk":
        chunks = [
            take_top_k(rows @ teacher_head.T, TOP_K, (1.0,)) for rows in teacher_hidden.split(128)
        ]
        of_teacher: TopK | TeacherStates = concatenate(chunks)
    else:
        of_teacher = TeacherStates(teacher_hidden)
    targets = TeacherTargets(
        torch.arange(num_positions),
        torch.randint(0, VOCAB, (num_positions,), generator=generator),
        of_teacher,
    )
    return Case(
        hidden=hidden.requires_grad_(),
        head=nn.Parameter(head),
        targets=targets,
        teacher_head=teacher_head if signal == "exact" else None,
    )


def fused(case: Case, signal: SignalName) -> None:
    """Compute loss and gradients with the fused objective."""
    spec = LossSpec(signal=signal, top_k=TOP_K, kd_weight=KD_WEIGHT, sense_weight=0)
    teacher_head = FrozenHead(case.teacher_head) if case.teacher_head is not None else None
    objective = DistillObjective(case.head, spec, 1.0, teacher_head=teacher_head)
    scale = 1 / len(case.hidden)
    loss, _ = objective(
        case.hidden[None], case.targets, SenseTargets.empty(SIZE), Scales(scale, scale)
    )
    loss.backward()


def dense(case: Case, signal: SignalName) -> None:
    """Compute the same loss and gradients by autograd over [N, V].

    One log-softmax serves both terms, and the teacher's needs no gradient.
    """
    log_q = torch.log_softmax(case.hidden @ case.head.T, dim=1)
    ce = functional.nll_loss(log_q, case.targets.targets)
    if signal == "exact":
        assert isinstance(case.targets.signal, TeacherStates)
        assert case.teacher_head is not None
        log_p = torch.log_softmax(case.targets.signal.hidden @ case.teacher_head.T, dim=1)
        kd = functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    else:
        assert isinstance(case.targets.signal, TopK)
        ids = case.targets.signal.ids
        log_p, log_p_rest = case.targets.signal.log_probs(1.0, 0)
        # The k tokens are masked, so that the rest is not the difference of two near numbers.
        log_q_rest = torch.logsumexp(log_q.scatter(1, ids, -torch.inf), dim=1)
        kd_top = (log_p.exp() * (log_p - log_q.gather(1, ids))).sum(1)
        kd_rest = log_p_rest.exp() * (log_p_rest - log_q_rest)
        kd = (kd_top + kd_rest).mean()
    (ce + KD_WEIGHT * kd).backward()


Variant = Callable[[Case, SignalName], None]
VARIANTS: Mapping[str, Variant] = {"fused": fused, "dense": dense}

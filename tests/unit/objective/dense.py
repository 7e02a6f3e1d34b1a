"""Small inputs for tests of the objective, and its KL term in a plain implementation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dskd_ds.losses.distributions import Sampled
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.signals.exact import TeacherStates
from dskd_ds.signals.parts.top_k import take_top_k
from tests.unit.losses.test_token import V, drawn, slow_divergence

POSITIONS = torch.tensor([0, 1, 2, 4, 5, 6, 8])
"""The supervised positions of a block of 9."""
TARGETS = torch.randint(0, V, (7,), generator=torch.Generator().manual_seed(0))


def targets_of(
    signal: str, teacher_hidden: Tensor, teacher_logits: Tensor, tau: float
) -> TeacherTargets:
    """The teacher's signal of each kind; `topk` with the whole vocabulary."""
    signals = {
        "topk": take_top_k(teacher_logits, V, (tau, 1.0)),
        "exact": TeacherStates(teacher_hidden),
        "sampled": drawn(teacher_logits / tau, 40),
        "hidden": None,
    }
    return TeacherTargets(POSITIONS, TARGETS, signals[signal])


def assert_gradients_agree(fused: Tensor | None, expected: Tensor | None) -> None:
    """Compare direction and length of the fused objective's gradient with autograd's."""
    assert fused is not None
    assert expected is not None
    cosine = torch.cosine_similarity(fused.double().flatten(), expected.flatten(), dim=0)
    assert cosine > 0.9999
    assert fused.norm().item() == pytest.approx(expected.norm().item(), rel=2e-3)


def dense_kd(
    signal: str,
    log_q: Tensor,
    teacher: TeacherTargets,
    teacher_logits: Tensor,
    kind: str,
    tau: float,
) -> Tensor:
    """The KL term [7] of a plain implementation. log_q [7, V]: at the temperature."""
    scaled = teacher_logits.double() / tau
    if signal != "sampled":
        return slow_divergence(torch.softmax(scaled, 1), log_q.exp(), kind)
    assert isinstance(teacher.signal, Sampled)
    log_ratio = torch.log_softmax(scaled, 1) - log_q
    weights = teacher.signal.weights.double()
    return (weights * log_ratio.gather(1, teacher.signal.ids)).sum(1)

"""Factors of the KL term by position, against a dense objective with autograd."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dskd_ds.losses.sense import SenseTargets
from dskd_ds.objective.fused import STATS, DistillObjective, Scales
from dskd_ds.spec.loss import Divergence, LossSpec
from tests.unit.losses.test_sense import D
from tests.unit.losses.test_token import KINDS, V, draw
from tests.unit.objective.dense import (
    POSITIONS,
    TARGETS,
    assert_gradients_agree,
    dense_kd,
    targets_of,
)

WEIGHTS = torch.tensor([1.0, 0.25, 3.0, 1.0, 2.0, 0.5, 1.0])


@pytest.mark.parametrize("chunk", [3, 100])
@pytest.mark.parametrize("tau", [1.0, 2.0])
@pytest.mark.parametrize(
    ("signal", "kind"), [*(("topk", kind) for kind in KINDS), ("sampled", "forward")]
)
def test_only_the_divergence_is_weighted(
    signal: str, kind: Divergence, tau: float, chunk: int
) -> None:
    spec = LossSpec(
        signal=signal,
        divergence=kind,
        top_k=V,
        temperature=tau,
        kd_weight=0.7,
        sense_weight=0,
        chunk_positions=chunk,
    )
    hidden, weight = draw(0, 1, 9, D, scale=1.0), draw(1, V, D)
    teacher_hidden = draw(3, 7, D, scale=1.0)
    teacher_logits = teacher_hidden @ draw(2, V, D).T
    teacher = targets_of(signal, teacher_hidden, teacher_logits, tau)
    h, w = hidden.clone().requires_grad_(), torch.nn.Parameter(weight.clone())
    objective = DistillObjective(w, spec, 1.0)
    weighted = replace(teacher, kd_weights=WEIGHTS)
    loss, stats = objective(h, weighted, SenseTargets.empty(D), Scales(1 / 7, 1.0))
    loss.backward()

    h2, w2 = hidden.clone().double().requires_grad_(), weight.clone().double().requires_grad_()
    logits = h2[0, POSITIONS] @ w2.T
    kd = dense_kd(signal, torch.log_softmax(logits / tau, 1), teacher, teacher_logits, kind, tau)
    ce = torch.nn.functional.cross_entropy(logits, TARGETS)
    dense = ce + 0.7 * tau**2 * (WEIGHTS.double() * kd).mean()
    dense.backward()

    assert loss.item() == pytest.approx(dense.item(), rel=2e-3)
    named = dict(zip(STATS, stats.tolist(), strict=True))
    assert named["ce"] / 7 == pytest.approx(ce.item(), rel=1e-4)
    assert named["kd"] == pytest.approx((WEIGHTS * kd.detach()).sum().item(), rel=2e-3)
    for fused, expected in ((h.grad, h2.grad), (w.grad, w2.grad)):
        assert_gradients_agree(fused, expected)


def test_weights_of_one_change_no_bit() -> None:
    hidden, weight = draw(0, 1, 9, D, scale=1.0), draw(1, V, D)
    teacher_hidden = draw(3, 7, D, scale=1.0)
    teacher = targets_of("topk", teacher_hidden, teacher_hidden @ draw(2, V, D).T, 1.0)
    found = []
    for kd_weights in (None, torch.ones(7)):
        h = hidden.clone().requires_grad_()
        objective = DistillObjective(torch.nn.Parameter(weight.clone()), LossSpec(top_k=V), 1.0)
        targets = replace(teacher, kd_weights=kd_weights)
        loss, _ = objective(h, targets, SenseTargets.empty(D), Scales(1 / 7, 1.0))
        loss.backward()
        assert h.grad is not None
        found.append((loss.item(), h.grad))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])

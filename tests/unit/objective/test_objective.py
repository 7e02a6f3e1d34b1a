"""The fused objective and its gradients against a dense objective with autograd."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from dskd_ds.losses.sense import SenseTargets
from dskd_ds.models.head import FrozenHead, HeadForm
from dskd_ds.objective.fused import STATS, DistillObjective, Scales
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.signals.exact import TeacherStates
from dskd_ds.signals.parts.top_k import take_top_k
from dskd_ds.spec.loss import Divergence, LossSpec
from tests.unit.losses.test_sense import D, sense_targets, slow_sense
from tests.unit.losses.test_token import KINDS, V, draw
from tests.unit.objective.dense import (
    POSITIONS,
    TARGETS,
    assert_gradients_agree,
    dense_kd,
    targets_of,
)


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize(
    "form", [HeadForm(), HeadForm(0.5, 6.0)], ids=["plain", "scaled and capped"]
)
@pytest.mark.parametrize("tau", [1.0, 2.0])
@pytest.mark.parametrize(
    ("signal", "kind"),
    [
        *(("topk", k) for k in KINDS),
        *(("exact", k) for k in KINDS),
        ("sampled", "forward"),
        ("hidden", "forward"),
    ],
)
def test_objective_equals_dense_autograd(
    signal: str, kind: Divergence, tau: float, form: HeadForm, chunk: int
) -> None:
    alpha = 0.0 if signal == "hidden" else 0.7
    spec = LossSpec(
        signal=signal,
        divergence=kind,
        top_k=V,
        temperature=tau,
        kd_weight=alpha,
        sense_weight=0.3,
        chunk_positions=chunk,
    )
    hidden, weight = draw(0, 1, 9, D, scale=1.0), draw(1, V, D)
    teacher_weight, teacher_hidden = draw(2, V, D), draw(3, 7, D, scale=1.0)
    senses, pulls, pushes = sense_targets(5, [2, 0, 3], [1, 2, 0])
    teacher_form = HeadForm(2.0, 20.0)
    teacher_logits = torch.tanh((teacher_hidden @ teacher_weight.T) * 2.0 / 20.0) * 20.0
    teacher = targets_of(signal, teacher_hidden, teacher_logits, tau)
    teacher_head = FrozenHead(teacher_weight, teacher_form) if signal == "exact" else None

    h, w = hidden.clone().requires_grad_(), torch.nn.Parameter(weight.clone())
    objective = DistillObjective(w, spec, 3.0, form, teacher_head)
    loss, stats = objective(h, teacher, senses, Scales(token=1 / 7, sense=1 / 3))
    (2 * loss).backward()  # the incoming gradient must be used

    h2, w2 = hidden.clone().double().requires_grad_(), weight.clone().double().requires_grad_()
    logits = (h2[0, POSITIONS] @ w2.T) * form.scale
    if form.softcap:
        logits = torch.tanh(logits / form.softcap) * form.softcap
    kd = dense_kd(signal, torch.log_softmax(logits / tau, 1), teacher, teacher_logits, kind, tau)
    ce = torch.nn.functional.cross_entropy(logits, TARGETS)
    sense = slow_sense(h2[0, :3], senses.weights, pulls, pushes, spec, 3.0)
    dense = ce + alpha * tau**2 * kd.mean() + 0.3 / 3 * sense
    (2 * dense).backward()

    assert loss.item() == pytest.approx(dense.item(), rel=2e-3)
    for fused, expected in ((h.grad, h2.grad), (w.grad, w2.grad)):
        assert_gradients_agree(fused, expected)
    named = dict(zip(STATS, stats.tolist(), strict=True))
    assert named["ce"] / 7 == pytest.approx(ce.item(), rel=1e-4)
    assert named["sense_positions"] == 3
    if signal in ("topk", "exact"):
        assert named["agreement_positions"] == math.ceil(min(chunk, 7) / 8) * math.ceil(7 / chunk)
        assert named["topk_overlap"] == named["agreement_positions"]  # k = V
        assert named["teacher_mass"] == pytest.approx(named["agreement_positions"], rel=1e-4)


@pytest.mark.parametrize("product_rows", [4_096, 5])
def test_bfloat16_states_and_head(product_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits and the head's gradient are float32 inside, for any number of rows per product."""
    monkeypatch.setattr("dskd_ds.objective.fused.PRODUCT_ROWS", product_rows)
    hidden, weight, teacher_logits = draw(0, 1, 9, D, scale=1.0), draw(1, V, D), draw(2, 7, V)
    teacher = TeacherTargets(POSITIONS, TARGETS, take_top_k(teacher_logits, 5, (1.0,)))
    senses, _, _ = sense_targets(5, [2, 0, 3], [1, 2, 0])
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        h = hidden.bfloat16().to(dtype).requires_grad_()
        w = torch.nn.Parameter(weight.bfloat16().to(dtype))
        objective = DistillObjective(w, LossSpec(top_k=5, chunk_positions=4), 3.0)
        loss, _ = objective(h, teacher, senses, Scales(1 / 7, 1 / 3))
        loss.backward()
        assert h.grad is not None
        assert w.grad is not None
        assert h.grad.dtype == w.grad.dtype == dtype
        grads.append((h.grad.float().flatten(), w.grad.float().flatten()))
    for exact, rounded in zip(*grads, strict=True):
        assert torch.cosine_similarity(exact, rounded, dim=0) > 0.999


def test_a_map_takes_the_states_into_the_senses_space() -> None:
    hidden, mapping = draw(0, 1, 9, 5, scale=1.0), draw(1, D, 5, scale=0.5)
    senses, pulls, pushes = sense_targets(5, [2, 0, 3], [1, 2, 0])
    spec = LossSpec(kd_weight=0, sense_weight=0.3, signal="hidden", chunk_positions=2)
    h, m = hidden.clone().requires_grad_(), torch.nn.Parameter(mapping.clone())
    weight = torch.nn.Parameter(draw(2, V, 5), requires_grad=False)
    objective = DistillObjective(weight, spec, 3.0, sense_map=m)
    loss, _ = objective(h, TeacherTargets(POSITIONS, TARGETS), senses, Scales(0.0, 1 / 3))
    loss.backward()
    h2, m2 = hidden.double().requires_grad_(), mapping.double().requires_grad_()
    dense = 0.1 * slow_sense(h2[0, :3] @ m2.T, senses.weights, pulls, pushes, spec, 3.0)
    dense.backward()
    assert loss.item() == pytest.approx(dense.item(), rel=1e-4)
    for fused, expected in ((h.grad, h2.grad), (m.grad, m2.grad)):
        assert expected is not None
        torch.testing.assert_close(fused, expected.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tau", [1.0, 2.0])
@pytest.mark.parametrize(
    ("signal", "ce_weight"),
    [
        *((signal, weight) for signal in ("topk", "exact", "sampled") for weight in (1.0, 0.0)),
        ("hidden", 0.25),
    ],
)
def test_weights_of_positions_and_terms_equal_dense_autograd(
    signal: str, tau: float, ce_weight: float
) -> None:
    spec = LossSpec(
        signal=signal,
        top_k=V,
        temperature=tau,
        ce_weight=ce_weight,
        kd_weight=0.0 if signal == "hidden" else 0.7,
        sense_weight=0.0,
        chunk_positions=4,
    )
    hidden, weight = draw(0, 1, 9, D, scale=1.0), draw(1, V, D)
    teacher_weight, teacher_hidden = draw(2, V, D), draw(3, 7, D, scale=1.0)
    teacher_logits = teacher_hidden @ teacher_weight.T
    weights = torch.tensor([0.5, 0.5, 0.1, 0.1, 0.1, 0.0, 2.0])
    plain = targets_of(signal, teacher_hidden, teacher_logits, tau)
    teacher = replace(plain, weights=weights)
    form = HeadForm(0.5, 6.0)
    teacher_head = FrozenHead(teacher_weight) if signal == "exact" else None
    h, w = hidden.clone().requires_grad_(), torch.nn.Parameter(weight.clone())
    objective = DistillObjective(w, spec, 3.0, form, teacher_head)
    loss, _ = objective(h, teacher, SenseTargets.empty(D), Scales(token=0.25, sense=0.0))
    loss.backward()

    h2, w2 = hidden.double().requires_grad_(), weight.double().requires_grad_()
    logits = torch.tanh((h2[0, POSITIONS] @ w2.T) * form.scale / form.softcap) * form.softcap
    log_q = torch.log_softmax(logits / tau, 1)
    kd = dense_kd(signal, log_q, teacher, teacher_logits, "forward", tau)
    ce = torch.nn.functional.cross_entropy(logits, TARGETS, reduction="none")
    dense = 0.25 * (weights * (ce_weight * ce + spec.kd_weight * tau**2 * kd)).sum()
    dense.backward()
    assert loss.item() == pytest.approx(dense.item(), rel=2e-3)
    for fused, expected in ((h.grad, h2.grad), (w.grad, w2.grad)):
        assert_gradients_agree(fused, expected)


def test_rows_that_only_the_teachers_head_has_change_nothing() -> None:
    """The result is that of a teacher cut to the student's rows."""
    teacher_weight, teacher_hidden = draw(2, V + 5, D), draw(3, 7, D, scale=1.0)
    hidden, weight = draw(0, 1, 9, D, scale=1.0), torch.nn.Parameter(draw(1, V, D))
    teacher = TeacherTargets(POSITIONS, TARGETS, TeacherStates(teacher_hidden))
    spec = LossSpec(signal="exact", top_k=4)
    losses = []
    for rows in (teacher_weight, teacher_weight[:V]):
        objective = DistillObjective(weight, spec, 1.0, teacher_head=FrozenHead(rows))
        losses.append(objective(hidden, teacher, SenseTargets.empty(D), Scales(1.0, 1.0))[0])
    assert losses[0] == losses[1]


def test_a_frozen_head_gets_no_gradient() -> None:
    weight = torch.nn.Parameter(draw(0, V, D), requires_grad=False)
    hidden = draw(1, 1, 4, D).requires_grad_()
    teacher = TeacherTargets(torch.arange(4), torch.arange(4), take_top_k(draw(2, 4, V), 3, (1.0,)))
    objective = DistillObjective(weight, LossSpec(), 1.0)
    loss, _ = objective(hidden, teacher, SenseTargets.empty(D), Scales(1.0, 1.0))
    loss.backward()
    assert weight.grad is None
    assert hidden.grad is not None
    assert hidden.grad.abs().sum() > 0

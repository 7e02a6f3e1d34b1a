"""The charted sums: KL of a student that equals its teacher, and the mass of the top-k tokens."""

from __future__ import annotations

import pytest
import torch

from dskd_ds.losses.sense import SenseTargets
from dskd_ds.models.head import FrozenHead
from dskd_ds.objective.fused import STATS, DistillObjective, Scales
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.signals.exact import TeacherStates
from dskd_ds.signals.parts.draws import take_draws
from dskd_ds.signals.parts.top_k import take_top_k
from dskd_ds.spec.loss import LossSpec
from tests.unit.losses.test_sense import D
from tests.unit.losses.test_token import V, draw
from tests.unit.objective.dense import POSITIONS, TARGETS


@pytest.mark.parametrize("tau", [1.0, 2.0])
@pytest.mark.parametrize("signal", ["topk", "exact", "sampled"])
def test_a_student_equal_to_its_teacher_has_kl_0_in_every_mode(signal: str, tau: float) -> None:
    """From the teacher's logits to the charted sum; only the top k are rounded to float16."""
    hidden, weight = draw(0, 1, 9, D, scale=1.0), draw(1, V, D)
    states = hidden[0, POSITIONS]
    uniforms = torch.rand(7, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    signals = {
        "topk": take_top_k(states @ weight.T, 5, (tau, 1.0)),
        "exact": TeacherStates(states),
        "sampled": take_draws(states @ weight.T, tau, uniforms).sampled(),
    }
    teacher = TeacherTargets(POSITIONS, TARGETS, signals[signal])
    spec = LossSpec(signal=signal, temperature=tau, top_k=5, sense_weight=0)
    teacher_head = FrozenHead(weight) if signal == "exact" else None
    objective = DistillObjective(torch.nn.Parameter(weight), spec, 1.0, teacher_head=teacher_head)
    stats = objective(hidden, teacher, SenseTargets.empty(D), Scales(1.0, 1.0))[1]
    assert stats[STATS.index("kd")].abs() < (1e-4 if signal == "topk" else 1e-5)
    assert stats[STATS.index("ce")] > 1.0


@pytest.mark.parametrize("signal", ["topk", "exact"])
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_how_much_the_teachers_k_tokens_hold(signal: str, tau: float) -> None:
    """Of both distributions, at the loss's temperature and at 1, on 1 of 8 positions of a chunk."""
    k, rows = 5, [0, 3, 6]
    hidden, weight = draw(0, 1, 9, D, scale=1.0), draw(1, V, D)
    teacher_weight, teacher_hidden = draw(2, V, D), draw(3, 7, D, scale=1.0)
    logits_of = {
        "teacher": teacher_hidden @ teacher_weight.T,
        "student": hidden[0, POSITIONS] @ weight.T,
    }
    signals = {
        "topk": take_top_k(logits_of["teacher"], k, (tau, 1.0)),
        "exact": TeacherStates(teacher_hidden),
    }
    teacher = TeacherTargets(POSITIONS, TARGETS, signals[signal])
    spec = LossSpec(signal=signal, temperature=tau, top_k=k, chunk_positions=3)
    teacher_head = FrozenHead(teacher_weight) if signal == "exact" else None
    objective = DistillObjective(torch.nn.Parameter(weight), spec, 1.0, teacher_head=teacher_head)
    stats = objective(hidden, teacher, SenseTargets.empty(D), Scales(1.0, 1.0))[1]
    named = dict(zip(STATS, stats.tolist(), strict=True))
    ids = {model: logits[rows].topk(k, dim=1).indices for model, logits in logits_of.items()}
    assert named["agreement_positions"] == len(rows)
    for model, logits in logits_of.items():
        for name, temperature in (("", tau), ("_at_1", 1.0)):
            probs = torch.softmax(logits[rows].double() / temperature, 1)
            mass = probs.gather(1, ids["teacher"]).sum()
            assert named[f"{model}_mass{name}"] == pytest.approx(mass.item(), rel=1e-3)
    pairs = zip(ids["teacher"].tolist(), ids["student"].tolist(), strict=True)
    shared = sum(len(set(of_teacher) & set(of_student)) for of_teacher, of_student in pairs)
    assert named["topk_overlap"] == pytest.approx(shared / k)

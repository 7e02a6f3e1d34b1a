"""Every loss against a slow float64 version written here, and the properties that METHOD.md states."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dskd_ds.losses import token
from dskd_ds.losses.objective import STATS, DistillObjective, Scales, TeacherTargets
from dskd_ds.losses.sense import SenseTargets, sense_loss
from dskd_ds.spec.loss import LossSpec
from dskd_ds.teacher.signal import TopK, top_k_signal

C, V, D = 6, 23, 8


def draw(seed: int, *shape: int, scale: float = 3.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def slow_tail_kl(student: Tensor, signal: TopK, tau: float) -> Tensor:
    """Row by row in float64: the k tokens' probabilities and what is left, from the same wire values."""
    rows = []
    for row in range(len(student)):
        q = torch.softmax(student[row].double() / tau, 0)
        inside = [int(i) for i in signal.ids[row]]
        weights = [float(x) for x in (signal.logits[row].double() / tau).exp()] + [float(signal.tail[row, 0].double().exp())]
        p = [w / sum(weights) for w in weights]
        q_parts = [float(q[i]) for i in inside] + [float(sum(q[i] for i in range(len(q)) if i not in inside))]
        rows.append(sum(a * torch.log(torch.tensor(a / b, dtype=torch.float64)) for a, b in zip(p, q_parts, strict=True) if a > 0))
    return torch.stack([torch.as_tensor(r, dtype=torch.float64) for r in rows])


@pytest.mark.parametrize("tau", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 5, V])
def test_tail_kl_and_its_gradient(k: int, tau: float) -> None:
    student, teacher = draw(0, C, V).requires_grad_(), draw(1, C, V)
    signal = top_k_signal(teacher, k, (tau,))
    loss = token.tail_kl(student.detach(), signal, tau)
    torch.testing.assert_close(loss.values.double(), slow_tail_kl(student.detach(), signal, tau), rtol=1e-4, atol=1e-5)
    exact = student.detach().double().requires_grad_()
    log_q = torch.log_softmax(exact / tau, 1)
    log_p, log_rest = (part.double() for part in signal.log_probs(tau, 0))
    mask = torch.ones(C, V).scatter(1, signal.ids, 0).bool()
    value = (log_p.exp() * (log_p - log_q.gather(1, signal.ids))).sum(1)
    if k < V:
        rest = torch.logsumexp(log_q.masked_fill(~mask, -torch.inf), 1)
        value = value + log_rest.exp() * (log_rest - rest)
    value.sum().backward()
    torch.testing.assert_close(loss.grad.double(), exact.grad, rtol=1e-3, atol=1e-5)


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, V), tau=st.sampled_from([0.5, 1.0, 3.0]), scale=st.sampled_from([0.1, 3.0, 30.0]))
def test_tail_kl_is_between_zero_and_the_full_kl(seed: int, k: int, tau: float, scale: float) -> None:
    student, teacher = draw(seed, C, V, scale=scale), draw(seed + 1, C, V, scale=scale)
    teacher = (teacher - teacher.max(1, keepdim=True).values).half().float()  # what the wire keeps is the teacher here
    tail = token.tail_kl(student, top_k_signal(teacher, k, (tau,)), tau).values
    full = token.full_kl(student, teacher, tau).values
    slack = 1e-4 * (1 + full)
    assert (tail >= -slack).all()
    assert (tail <= full + slack).all()
    if k == V:
        torch.testing.assert_close(tail, full, rtol=1e-3, atol=1e-4)


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, V))
def test_a_student_equal_to_its_teacher_has_no_kl(seed: int, k: int) -> None:
    logits = draw(seed, C, V)
    assert token.tail_kl(logits, top_k_signal(logits, k, (1.0,)), 1.0).values.abs().max() < 2e-3  # half precision on the wire
    assert token.full_kl(logits, logits, 1.0).values.abs().max() < 1e-6


@settings(deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_the_k_tokens_does_not_matter(seed: int) -> None:
    student, signal = draw(seed, C, V), top_k_signal(draw(seed + 1, C, V), 7, (1.0,))
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    other = TopK(signal.ids[:, order], signal.logits[:, order], signal.tail)
    torch.testing.assert_close(token.tail_kl(student, signal, 1.0).values, token.tail_kl(student, other, 1.0).values)


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, V))
def test_wire_probabilities_add_up_to_one(seed: int, k: int) -> None:
    signal = top_k_signal(draw(seed, C, V), k, (1.0, 2.0))
    for column, tau in enumerate((1.0, 2.0)):
        inside, rest = signal.log_probs(tau, column)
        torch.testing.assert_close(inside.exp().sum(1) + rest.exp(), torch.ones(C), rtol=1e-5, atol=1e-5)


def sense_targets(seed: int, num_pull: list[int], num_push: list[int]) -> tuple[SenseTargets, list[Tensor], list[Tensor]]:
    pulls = [draw(seed + i, n, D, scale=1.0) for i, n in enumerate(num_pull)]
    pushes = [draw(seed + 100 + i, n, D, scale=1.0) for i, n in enumerate(num_push)]
    size, width = len(num_pull), max(1, *num_push)
    mean = torch.stack([p.mean(0) if len(p) else torch.zeros(D) for p in pulls])
    spread = torch.stack([p.square().sum(1).mean() - p.mean(0).square().sum() if len(p) else torch.tensor(0.0) for p in pulls])
    push = torch.stack([torch.cat([p, torch.zeros(width - len(p), D)]) for p in pushes])
    mask = torch.arange(width) < torch.tensor(num_push)[:, None]
    weights = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    return SenseTargets(torch.arange(size), weights, mean, spread, torch.tensor(num_pull) > 0, push, mask), pulls, pushes


@settings(deadline=None)
@given(seed=st.integers(0, 1000), num_pull=st.lists(st.integers(0, 4), min_size=3, max_size=3),
       num_push=st.lists(st.integers(0, 4), min_size=3, max_size=3), margin=st.sampled_from([0.5, 2.0, 5.0]))
def test_sense_loss_against_the_formula(seed: int, num_pull: list[int], num_push: list[int], margin: float) -> None:
    targets, pulls, pushes = sense_targets(seed, num_pull, num_push)
    spec = LossSpec(pull=0.7, push=1.3)
    hidden = draw(seed + 7, 3, D, scale=1.0).requires_grad_()
    sums = sense_loss(hidden, targets, spec, margin)
    exact = hidden.detach().double().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for h, plus, minus, weight in zip(exact, pulls, pushes, targets.weights, strict=True):
        pull = sum(((s.double() - h) ** 2).sum() / D for s in plus) / len(plus) if len(plus) else 0.0
        push = sum(torch.clamp(margin - ((a.double() - h) ** 2).sum() / D, min=0) for a in minus) / len(minus) if len(minus) else 0.0
        total = total + weight.double() * (0.7 * pull + 1.3 * push)
    torch.testing.assert_close(sums.loss.double(), total, rtol=1e-4, atol=1e-5)
    if total.requires_grad:
        (grad,) = torch.autograd.grad(total, exact)
        sums.loss.backward()
        torch.testing.assert_close(hidden.grad.double(), grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("signal", ["topk", "exact"])
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_objective_equals_dense_autograd(signal: str, chunk: int) -> None:
    spec = LossSpec(signal=signal, top_k=V, temperature=2.0, kd_weight=0.7, sense_weight=0.3, chunk_positions=chunk)
    hidden, weight, head, teacher_hidden = draw(0, 1, 9, D, scale=1.0), draw(1, V, D), draw(2, V, D), draw(3, 7, D, scale=1.0)
    positions, targets = torch.tensor([0, 1, 2, 4, 5, 6, 8]), torch.randint(0, V, (7,), generator=torch.Generator().manual_seed(0))
    senses, _, _ = sense_targets(5, [2, 0, 3], [1, 2, 0])
    teacher_logits = teacher_hidden @ head.T
    top_k = top_k_signal(teacher_logits, V, (2.0,)) if signal == "topk" else None
    h, w = hidden.clone().requires_grad_(), torch.nn.Parameter(weight.clone())
    objective = DistillObjective(w, spec, 3.0, head if signal == "exact" else None)
    loss, stats = objective(h, TeacherTargets(positions, targets, top_k, teacher_hidden if signal == "exact" else None), senses,
                            Scales(token=1 / 7, sense=1 / 3))
    loss.backward()
    h2, w2 = hidden.clone().double().requires_grad_(), weight.clone().double().requires_grad_()
    logits = h2[0, positions] @ w2.T
    log_q, log_p = torch.log_softmax(logits / 2, 1), torch.log_softmax(teacher_logits.double() / 2, 1)
    kd = (log_p.exp() * (log_p - log_q)).sum(1).mean()
    ce = torch.nn.functional.cross_entropy(logits, targets)
    dense = ce + 0.7 * 4 * kd + 0.3 / 3 * sense_loss(h2[0, :3], senses, spec, 3.0).loss
    dense.backward()
    assert loss.item() == pytest.approx(dense.item(), rel=2e-3)
    for mine, theirs in ((h.grad, h2.grad), (w.grad, w2.grad)):
        assert torch.cosine_similarity(mine.double().flatten(), theirs.flatten(), dim=0) > 0.9999
    named = dict(zip(STATS, stats.tolist(), strict=True))
    assert named["ce"] / 7 == pytest.approx(ce.item(), rel=1e-4)
    assert named["positions"] == 7
    assert named["sense_positions"] == 3


def test_a_frozen_head_gets_no_gradient() -> None:
    weight = torch.nn.Parameter(draw(0, V, D), requires_grad=False)
    hidden = draw(1, 1, 4, D).requires_grad_()
    targets = TeacherTargets(torch.arange(4), torch.arange(4), top_k_signal(draw(2, 4, V), 3, (1.0,)), None)
    loss, _ = DistillObjective(weight, LossSpec(), 1.0)(hidden, targets, SenseTargets.empty(D), Scales(1.0, 1.0))
    loss.backward()
    assert weight.grad is None
    assert hidden.grad.abs().sum() > 0

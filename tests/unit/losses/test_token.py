"""Token losses against slow float64 versions, and the properties that docs/method.md states."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dskd_ds.losses import token
from dskd_ds.losses.distributions import Sampled, TopK
from dskd_ds.losses.divergence import divergence
from dskd_ds.losses.token import RowLoss
from dskd_ds.signals.parts.draws import take_draws as teacher_draws
from dskd_ds.signals.parts.top_k import take_top_k
from dskd_ds.spec.loss import Divergence

C, V = 6, 23
KINDS: tuple[Divergence, ...] = ("forward", "reverse", "jensen_shannon")


def draw(seed: int, *shape: int, scale: float = 3.0) -> Tensor:
    """Random normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def slow_divergence(p: Tensor, q: Tensor, kind: str) -> Tensor:
    """The divergence [C] by its definition, in float64. p, q: [C, n]."""

    def kl(a: Tensor, b: Tensor) -> Tensor:
        log_ratio = a.clamp_min(1e-300).log() - b.clamp_min(1e-300).log()
        return torch.where(a > 0, a * log_ratio, 0.0).sum(1)

    if kind == "forward":
        return kl(p, q)
    if kind == "reverse":
        return kl(q, p)
    m = (p + q) / 2
    return (kl(p, m) + kl(q, m)) / 2


def buckets(probs: Tensor, ids: Tensor) -> Tensor:
    """[C, V] -> [C, k + 1]: the probabilities of the k tokens and of all others together."""
    rest = probs.scatter(1, ids, 0.0).sum(1, keepdim=True)
    return torch.cat([probs.gather(1, ids), rest], dim=1)


def tail_loss(
    logits: Tensor, signal: TopK, tau: float, kind: Divergence = "forward", ce_scale: float = 0.0
) -> RowLoss:
    return token.tail_divergence_(
        logits / tau, signal.ids, *signal.log_probs(tau, 0), kind, 1.0, ce_scale
    )


def full_loss(
    logits: Tensor, teacher: Tensor, tau: float, kind: Divergence = "forward", ce_scale: float = 0.0
) -> RowLoss:
    return token.full_divergence_(logits / tau, teacher / tau, kind, 1.0, ce_scale)


def drawn(teacher: Tensor, num_draws: int, seed: int = 0) -> Sampled:
    """Independent draws from softmax(teacher), with the teacher's log-probability of them."""
    generator = torch.Generator().manual_seed(seed)
    probs = torch.softmax(teacher, 1)
    picks = torch.multinomial(probs, num_draws, replacement=True, generator=generator)
    share_of_each = torch.full(picks.shape, 1 / num_draws)
    share = torch.zeros_like(teacher).scatter_add_(1, picks, share_of_each)
    weights, ids = share.topk(min(num_draws, teacher.shape[1]), dim=1)
    log_p = torch.log_softmax(teacher.double(), 1).gather(1, ids)
    log_probs = (weights.double() * log_p).sum(1).float()
    return Sampled(torch.where(weights > 0, ids, 0), weights, log_probs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tau", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 5, V])
def test_tail_divergence_and_its_gradient(k: int, tau: float, kind: Divergence) -> None:
    student, teacher = draw(0, C, V), draw(1, C, V)
    signal = take_top_k(teacher, k, (tau,))
    found = tail_loss(student, signal, tau, kind, ce_scale=0.25)
    exact = (student.double() / tau).requires_grad_()
    inside, rest = signal.log_probs(tau, 0)
    p = torch.cat([inside.double().exp(), rest.double().exp()[:, None]], dim=1)
    q = torch.softmax(exact, 1)
    num_outcomes = k + 1 if k < V else V  # at k = V there is no bucket
    in_buckets = buckets(q, signal.ids)[:, :num_outcomes]
    value = slow_divergence(p[:, :num_outcomes], in_buckets, kind)
    value.sum().backward()
    assert exact.grad is not None
    expected_grad = exact.grad + 0.25 * q.detach()
    torch.testing.assert_close(found.values.double(), value.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.grad.double(), expected_grad, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.log_total.double(), torch.logsumexp(exact.detach(), 1))


@pytest.mark.parametrize(
    ("kind", "teacher_rows"),
    [*((kind, V) for kind in KINDS), ("forward", V - 4), ("jensen_shannon", V - 4)],
)
def test_full_divergence_and_its_gradient(kind: Divergence, teacher_rows: int) -> None:
    student, teacher = draw(0, C, V), draw(1, C, teacher_rows)
    found = full_loss(student, teacher, 2.0, kind, ce_scale=0.25)
    exact = (student.double() / 2).requires_grad_()
    p = torch.nn.functional.pad(torch.softmax(teacher.double() / 2, 1), (0, V - teacher_rows))
    q = torch.softmax(exact, 1)
    value = slow_divergence(p, q, kind)
    value.sum().backward()
    assert exact.grad is not None
    expected_grad = exact.grad + 0.25 * q.detach()
    torch.testing.assert_close(found.values.double(), value.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.grad.double(), expected_grad, rtol=1e-3, atol=1e-5)


def test_sampled_kl_and_its_gradient() -> None:
    student, teacher = draw(0, C, V), draw(1, C, V)
    sampled = drawn(teacher, 9)
    found = token.sampled_kl_(student.clone(), sampled, 1.0, 0.25)
    exact = student.double().requires_grad_()
    log_q = torch.log_softmax(exact, 1)
    log_p = torch.log_softmax(teacher.double(), 1)
    value = (sampled.weights.double() * (log_p - log_q).gather(1, sampled.ids)).sum(1)
    value.sum().backward()
    assert exact.grad is not None
    expected_grad = exact.grad + 0.25 * log_q.detach().exp()
    torch.testing.assert_close(found.values.double(), value.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.grad.double(), expected_grad, rtol=1e-3, atol=1e-5)


def test_many_draws_give_the_full_kl() -> None:
    student, teacher = draw(0, C, V, scale=1.0), draw(1, C, V, scale=1.0)
    exact = full_loss(student, teacher, 1.0)
    found = token.sampled_kl_(student.clone(), drawn(teacher, 200_000), 1.0, 0.0)
    torch.testing.assert_close(found.grad, exact.grad, rtol=0, atol=5e-3)
    torch.testing.assert_close(found.values, exact.values, rtol=0, atol=2e-2)


def test_the_kl_of_few_draws_is_unbiased() -> None:
    """With eight draws per position, as the teacher takes them, the mean value is the KL."""
    tau, rows, num_draws = 1.5, 20_000, 8
    student, teacher = draw(0, 1, V, scale=1.0), draw(1, 1, V, scale=1.0)
    generator = torch.Generator().manual_seed(0)
    uniforms = torch.rand(rows, num_draws, dtype=torch.float64, generator=generator)
    sampled = teacher_draws(teacher.expand(rows, V), tau, uniforms).sampled()
    logits = (student / tau).repeat(rows, 1)
    values = token.sampled_kl_(logits, sampled, 1.0, 0.0).values.double()
    exact = full_loss(student, teacher, tau).values
    assert 0.01 < values.std() < exact
    assert abs(values.mean() - exact) < 5 * values.std() / math.sqrt(rows)


@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, V),
    tau=st.sampled_from([0.5, 1.0, 3.0]),
    scale=st.sampled_from([0.1, 3.0, 30.0]),
    kind=st.sampled_from(KINDS),
)
def test_the_divergence_of_buckets_is_at_most_the_whole(
    seed: int, k: int, tau: float, scale: float, kind: Divergence
) -> None:
    student, teacher = draw(seed, C, V, scale=scale), draw(seed + 1, C, V, scale=scale)
    # The wire rounds to half precision; here the rounded logits are the teacher's exact ones.
    teacher = (teacher - teacher.max(1, keepdim=True).values).half().float()
    in_buckets = tail_loss(student, take_top_k(teacher, k, (tau,)), tau, kind).values
    whole = full_loss(student, teacher, tau, kind).values
    slack = 1e-4 * (1 + whole)
    assert (in_buckets >= -slack).all()
    assert (in_buckets <= whole + slack).all()
    if kind == "jensen_shannon":
        assert (whole <= math.log(2) + 1e-5).all()
    if k == V:
        torch.testing.assert_close(in_buckets, whole, rtol=1e-3, atol=1e-4)


@given(seed=st.integers(0, 10_000), k=st.integers(1, V), kind=st.sampled_from(KINDS))
def test_a_student_equal_to_its_teacher_has_no_divergence(
    seed: int, k: int, kind: Divergence
) -> None:
    """This holds for every signal, and for any draws."""
    logits = draw(seed, C, V)
    # The wire rounds logits to half precision: relative errors d <= 2^-11 * |z - max| of the
    # probabilities cost about d^2 / 2 nats.
    spread = (logits.amax(1) - logits.amin(1)).max().item()
    in_buckets = tail_loss(logits, take_top_k(logits, k, (1.0,)), 1.0, kind)
    assert in_buckets.values.abs().max() < max(1e-6, (spread / 2048) ** 2)
    whole = full_loss(logits, logits, 1.0, kind)
    assert whole.values.abs().max() < 1e-6
    assert whole.grad.abs().max() < 1e-6
    generator = torch.Generator().manual_seed(seed)
    uniforms = torch.rand(C, k, dtype=torch.float64, generator=generator)
    sampled = teacher_draws(logits, 2.0, uniforms).sampled()
    assert token.sampled_kl_(logits / 2, sampled, 1.0, 0.0).values.abs().max() < 1e-5


def test_losses_stay_finite_if_the_student_is_certain_of_another_token() -> None:
    """The teacher's mass is far below float32's range, among the k tokens or in the bucket."""
    student, teacher = torch.zeros(2, V), torch.zeros(2, V)
    student[0, 3], student[1, 5], teacher[:, 5] = 200.0, 200.0, 300.0
    signal = take_top_k(teacher, 1, (1.0,))
    for kind in KINDS:
        found = tail_loss(student, signal, 1.0, kind)
        assert found.values.isfinite().all()
        assert found.grad.isfinite().all()
    forward = tail_loss(student, signal, 1.0).values
    assert forward.tolist() == pytest.approx([200.0, 0.0], abs=1e-3)


@given(seed=st.integers(0, 10_000))
def test_the_order_of_the_k_tokens_does_not_matter(seed: int) -> None:
    student, signal = draw(seed, C, V), take_top_k(draw(seed + 1, C, V), 7, (1.0,))
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    other = TopK(signal.ids[:, order], signal.logits[:, order], signal.tail)
    expected = tail_loss(student, signal, 1.0).values
    torch.testing.assert_close(tail_loss(student, other, 1.0).values, expected)


def test_divergences_with_outcomes_of_probability_0() -> None:
    """One outcome has probability 0 on both sides, and one only for the teacher."""
    log_p = torch.tensor([[0.5, 0.5, 0.0, 0.0]]).log()
    log_q = torch.tensor([[0.5, 0.25, 0.25, 0.0]]).log()
    for kind in ("forward", "jensen_shannon"):
        values, grad = divergence(log_p, log_q, kind)
        torch.testing.assert_close(values, slow_divergence(log_p.exp(), log_q.exp(), kind))
        assert grad.isfinite().all()
        assert grad[0, 3] == 0
        assert grad.sum().abs() < 1e-6


@given(seed=st.integers(0, 10_000), k=st.integers(1, V))
def test_probabilities_from_the_wire_add_up_to_one(seed: int, k: int) -> None:
    signal = take_top_k(draw(seed, C, V), k, (1.0, 2.0))
    for column, tau in enumerate((1.0, 2.0)):
        inside, rest = signal.log_probs(tau, column)
        total = inside.exp().sum(1) + rest.exp()
        torch.testing.assert_close(total, torch.ones(C), rtol=1e-5, atol=1e-5)

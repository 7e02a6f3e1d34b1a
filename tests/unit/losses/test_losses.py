"""Every loss against a slow float64 version written here, and the properties that docs/method.md states."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dskd_ds.losses import token
from dskd_ds.losses.distributions import Sampled, TopK
from dskd_ds.losses.divergence import divergence
from dskd_ds.losses.sense import SenseTargets, sense_loss
from dskd_ds.losses.token import RowLoss
from dskd_ds.signals.parts.draws import take_draws as teacher_draws
from dskd_ds.signals.parts.top_k import take_top_k
from dskd_ds.spec.loss import Divergence, LossSpec

C, V, D = 6, 23, 8
KINDS: tuple[Divergence, ...] = ("forward", "reverse", "jensen_shannon")


def draw(seed: int, *shape: int, scale: float = 3.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def slow_divergence(p: Tensor, q: Tensor, kind: str) -> Tensor:
    """Outcome by outcome in float64; both [C, n]."""

    def kl(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(
            a > 0, a * (a.clamp_min(1e-300).log() - b.clamp_min(1e-300).log()), 0.0
        ).sum(1)

    m = (p + q) / 2
    return {
        "forward": lambda: kl(p, q),
        "reverse": lambda: kl(q, p),
        "jensen_shannon": lambda: (kl(p, m) + kl(q, m)) / 2,
    }[kind]()


def buckets(probs: Tensor, ids: Tensor) -> Tensor:
    """[C, V] -> [C, k + 1]: the k tokens and what is left."""
    return torch.cat([probs.gather(1, ids), probs.scatter(1, ids, 0.0).sum(1, keepdim=True)], dim=1)


def tail(
    logits: Tensor, signal: TopK, tau: float, kind: Divergence = "forward", own: float = 0.0
) -> RowLoss:
    return token.tail_divergence_(
        logits / tau, signal.ids, *signal.log_probs(tau, 0), kind, 1.0, own
    )


def full(
    logits: Tensor, teacher: Tensor, tau: float, kind: Divergence = "forward", own: float = 0.0
) -> RowLoss:
    return token.full_divergence_(logits / tau, teacher / tau, kind, 1.0, own)


def drawn(teacher: Tensor, number: int, seed: int = 0) -> Sampled:
    """Independent draws from softmax(teacher): their shares, distinct ids, padded; and what the teacher says of them."""
    picks = torch.multinomial(
        torch.softmax(teacher, 1),
        number,
        replacement=True,
        generator=torch.Generator().manual_seed(seed),
    )
    share = torch.zeros_like(teacher).scatter_add_(1, picks, torch.full(picks.shape, 1 / number))
    weights, ids = share.topk(min(number, teacher.shape[1]), dim=1)
    log_probs = (
        (weights.double() * torch.log_softmax(teacher.double(), 1).gather(1, ids)).sum(1).float()
    )
    return Sampled(torch.where(weights > 0, ids, 0), weights, log_probs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tau", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 5, V])
def test_tail_divergence_and_its_gradient(k: int, tau: float, kind: Divergence) -> None:
    student, teacher = draw(0, C, V), draw(1, C, V)
    signal = take_top_k(teacher, k, (tau,))
    found = tail(student, signal, tau, kind, own=0.25)
    exact = (student.double() / tau).requires_grad_()
    p = torch.cat([part.double().exp().reshape(C, -1) for part in signal.log_probs(tau, 0)], dim=1)
    q = torch.softmax(exact, 1)
    in_buckets = buckets(q, signal.ids)[:, : None if k < V else -1]  # at k = V there is no bucket
    value = slow_divergence(p[:, : in_buckets.shape[1]], in_buckets, kind)
    value.sum().backward()
    assert exact.grad is not None
    torch.testing.assert_close(found.values.double(), value.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        found.grad.double(), exact.grad + 0.25 * q.detach(), rtol=1e-3, atol=1e-5
    )
    torch.testing.assert_close(found.log_total.double(), torch.logsumexp(exact.detach(), 1))


@pytest.mark.parametrize(
    ("kind", "teacher_rows"),
    [*((kind, V) for kind in KINDS), ("forward", V - 4), ("jensen_shannon", V - 4)],
)
def test_full_divergence_and_its_gradient(kind: Divergence, teacher_rows: int) -> None:
    student, teacher = draw(0, C, V), draw(1, C, teacher_rows)
    found = full(student, teacher, 2.0, kind, own=0.25)
    exact = (student.double() / 2).requires_grad_()
    p = torch.nn.functional.pad(torch.softmax(teacher.double() / 2, 1), (0, V - teacher_rows))
    q = torch.softmax(exact, 1)
    value = slow_divergence(p, q, kind)
    value.sum().backward()
    assert exact.grad is not None
    torch.testing.assert_close(found.values.double(), value.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        found.grad.double(), exact.grad + 0.25 * q.detach(), rtol=1e-3, atol=1e-5
    )


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
    torch.testing.assert_close(found.values.double(), value.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        found.grad.double(), exact.grad + 0.25 * log_q.detach().exp(), rtol=1e-3, atol=1e-5
    )


def test_many_draws_give_the_full_kl() -> None:
    student, teacher = draw(0, C, V, scale=1.0), draw(1, C, V, scale=1.0)
    exact = full(student, teacher, 1.0)
    found = token.sampled_kl_(student.clone(), drawn(teacher, 200_000), 1.0, 0.0)
    torch.testing.assert_close(found.grad, exact.grad, rtol=0, atol=5e-3)
    torch.testing.assert_close(found.values, exact.values, rtol=0, atol=2e-2)


def test_the_kl_of_few_draws_is_unbiased() -> None:
    """Eight draws a position, as the teacher takes them; over many positions their mean is the whole KL."""
    tau, rows, number = 1.5, 20_000, 8
    student, teacher = draw(0, 1, V, scale=1.0), draw(1, 1, V, scale=1.0)
    uniforms = torch.rand(
        rows, number, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    sampled = teacher_draws(teacher.expand(rows, V), tau, uniforms).sampled()
    values = token.sampled_kl_((student / tau).repeat(rows, 1), sampled, 1.0, 0.0).values.double()
    exact = full(student, teacher, tau).values
    assert 0.01 < values.std() < exact
    assert abs(values.mean() - exact) < 5 * values.std() / math.sqrt(rows)


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, V),
    tau=st.sampled_from([0.5, 1.0, 3.0]),
    scale=st.sampled_from([0.1, 3.0, 30.0]),
    kind=st.sampled_from(KINDS),
)
def test_buckets_never_exceed_the_whole(
    seed: int, k: int, tau: float, scale: float, kind: Divergence
) -> None:
    student, teacher = draw(seed, C, V, scale=scale), draw(seed + 1, C, V, scale=scale)
    teacher = (
        (teacher - teacher.max(1, keepdim=True).values).half().float()
    )  # what the wire keeps is the teacher here
    in_buckets = tail(student, take_top_k(teacher, k, (tau,)), tau, kind).values
    whole = full(student, teacher, tau, kind).values
    slack = 1e-4 * (1 + whole)
    assert (in_buckets >= -slack).all()
    assert (in_buckets <= whole + slack).all()
    if kind == "jensen_shannon":
        assert (whole <= math.log(2) + 1e-5).all()
    if k == V:
        torch.testing.assert_close(in_buckets, whole, rtol=1e-3, atol=1e-4)


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, V), kind=st.sampled_from(KINDS))
def test_a_student_equal_to_its_teacher_has_no_divergence(
    seed: int, k: int, kind: Divergence
) -> None:
    """In every mode; in that of draws whatever was drawn."""
    logits = draw(seed, C, V)
    # The wire rounds logits to half precision: relative errors d <= 2^-11 * |z - max| of probabilities cost about d^2 / 2 nats.
    spread = (logits.amax(1) - logits.amin(1)).max().item()
    assert tail(logits, take_top_k(logits, k, (1.0,)), 1.0, kind).values.abs().max() < max(
        1e-6, (spread / 2048) ** 2
    )
    assert full(logits, logits, 1.0, kind).values.abs().max() < 1e-6
    assert (
        token.full_divergence_(logits.clone(), logits.clone(), kind, 1.0, 0.0).grad.abs().max()
        < 1e-6
    )
    uniforms = torch.rand(C, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert (
        token.sampled_kl_(logits / 2, teacher_draws(logits, 2.0, uniforms).sampled(), 1.0, 0.0)
        .values.abs()
        .max()
        < 1e-5
    )


def test_nothing_is_infinite_where_the_student_is_sure_of_something_else() -> None:
    """The teacher's mass far below what float32 can hold, on either side of the k tokens."""
    student, teacher = torch.zeros(2, V), torch.zeros(2, V)
    student[0, 3], student[1, 5], teacher[:, 5] = 200.0, 200.0, 300.0
    for kind in KINDS:
        found = tail(student, take_top_k(teacher, 1, (1.0,)), 1.0, kind)
        assert found.values.isfinite().all()
        assert found.grad.isfinite().all()
    assert tail(student, take_top_k(teacher, 1, (1.0,)), 1.0).values.tolist() == pytest.approx(
        [200.0, 0.0], abs=1e-3
    )


@settings(deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_the_k_tokens_does_not_matter(seed: int) -> None:
    student, signal = draw(seed, C, V), take_top_k(draw(seed + 1, C, V), 7, (1.0,))
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    other = TopK(signal.ids[:, order], signal.logits[:, order], signal.tail)
    torch.testing.assert_close(tail(student, signal, 1.0).values, tail(student, other, 1.0).values)


def test_divergences_without_any_probability() -> None:
    """An outcome that neither, or only one side, knows."""
    log_p = torch.tensor([[0.5, 0.5, 0.0, 0.0]]).log()
    log_q = torch.tensor([[0.5, 0.25, 0.25, 0.0]]).log()
    for kind in ("forward", "jensen_shannon"):
        values, grad = divergence(log_p, log_q, kind)
        torch.testing.assert_close(values, slow_divergence(log_p.exp(), log_q.exp(), kind))
        assert grad.isfinite().all()
        assert grad[0, 3] == 0
        assert grad.sum().abs() < 1e-6


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, V))
def test_wire_probabilities_add_up_to_one(seed: int, k: int) -> None:
    signal = take_top_k(draw(seed, C, V), k, (1.0, 2.0))
    for column, tau in enumerate((1.0, 2.0)):
        inside, rest = signal.log_probs(tau, column)
        torch.testing.assert_close(
            inside.exp().sum(1) + rest.exp(), torch.ones(C), rtol=1e-5, atol=1e-5
        )


def sense_targets(
    seed: int, num_pull: list[int], num_push: list[int]
) -> tuple[SenseTargets, list[Tensor], list[Tensor]]:
    pulls = [draw(seed + i, n, D, scale=1.0) for i, n in enumerate(num_pull)]
    pushes = [draw(seed + 100 + i, n, D, scale=1.0) for i, n in enumerate(num_push)]
    size, width = len(num_pull), max(1, *num_push)
    mean = torch.stack([p.mean(0) if len(p) else torch.zeros(D) for p in pulls])
    spread = torch.stack(
        [
            p.square().sum(1).mean() - p.mean(0).square().sum() if len(p) else torch.tensor(0.0)
            for p in pulls
        ]
    )
    push = torch.stack([torch.cat([p, torch.zeros(width - len(p), D)]) for p in pushes])
    mask = torch.arange(width) < torch.tensor(num_push)[:, None]
    weights = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    targets = SenseTargets(
        torch.arange(size),
        weights,
        mean,
        spread,
        torch.tensor(num_pull) > 0,
        push,
        push.square().sum(2),
        mask,
    )
    return targets, pulls, pushes


def slow_sense(
    hidden: Tensor,
    weights: Tensor,
    pulls: list[Tensor],
    pushes: list[Tensor],
    spec: LossSpec,
    margin: float,
) -> Tensor:
    """The formula, position by position and sense by sense, in float64."""
    total, size = torch.zeros((), dtype=torch.float64), pulls[0].shape[1]
    for h, plus, minus, weight in zip(hidden, pulls, pushes, weights, strict=True):
        pull = (
            sum(((s.double() - h) ** 2).sum() / size for s in plus) / len(plus)
            if len(plus)
            else 0.0
        )
        push = (
            sum(torch.clamp(margin - ((a.double() - h) ** 2).sum() / size, min=0) for a in minus)
            / len(minus)
            if len(minus)
            else 0.0
        )
        total = total + weight.double() * (spec.pull * pull + spec.push * push)
    return total


@settings(deadline=None)
@given(
    seed=st.integers(0, 1000),
    num_pull=st.lists(st.integers(0, 4), min_size=3, max_size=3),
    num_push=st.lists(st.integers(0, 4), min_size=3, max_size=3),
    margin=st.sampled_from([0.5, 2.0, 5.0]),
)
def test_sense_loss_against_the_formula(
    seed: int, num_pull: list[int], num_push: list[int], margin: float
) -> None:
    targets, pulls, pushes = sense_targets(seed, num_pull, num_push)
    spec = LossSpec(pull=0.7, push=1.3)
    hidden = draw(seed + 7, 3, D, scale=1.0)
    found = sense_loss(hidden, targets, spec, margin)
    exact = hidden.double().requires_grad_()
    total = slow_sense(exact, targets.weights, pulls, pushes, spec, margin)
    torch.testing.assert_close(found.loss.double(), total.detach(), rtol=1e-4, atol=1e-5)
    expected = (
        torch.autograd.grad(total, exact)[0]
        if total.requires_grad
        else torch.zeros(3, D, dtype=torch.float64)
    )
    torch.testing.assert_close(found.grad.double(), expected, rtol=1e-3, atol=1e-5)
    assert found.num_pull == sum(n > 0 for n in num_pull)
    assert found.num_push == sum(num_push)

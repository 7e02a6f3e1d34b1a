"""Every loss against a slow float64 version written here, and the properties that METHOD.md states."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dskd_ds.head import FrozenHead, HeadForm
from dskd_ds.losses import token
from dskd_ds.losses.divergence import divergence
from dskd_ds.losses.objective import STATS, DistillObjective, Scales, TeacherTargets
from dskd_ds.losses.sense import SenseTargets, sense_loss
from dskd_ds.losses.token import RowLoss
from dskd_ds.spec.loss import Divergence, LossSpec
from dskd_ds.teacher.signal import Sampled, TopK, top_k_signal

C, V, D = 6, 23, 8
KINDS: tuple[Divergence, ...] = ("forward", "reverse", "jensen_shannon")


def draw(seed: int, *shape: int, scale: float = 3.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def slow_divergence(p: Tensor, q: Tensor, kind: str) -> Tensor:
    """Outcome by outcome in float64; both [C, n]."""
    def kl(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(a > 0, a * (a.clamp_min(1e-300).log() - b.clamp_min(1e-300).log()), 0.0).sum(1)
    m = (p + q) / 2
    return {"forward": lambda: kl(p, q), "reverse": lambda: kl(q, p), "jensen_shannon": lambda: (kl(p, m) + kl(q, m)) / 2}[kind]()


def buckets(probs: Tensor, ids: Tensor) -> Tensor:
    """[C, V] -> [C, k + 1]: the k tokens and what is left."""
    return torch.cat([probs.gather(1, ids), probs.scatter(1, ids, 0.0).sum(1, keepdim=True)], dim=1)


def tail(logits: Tensor, signal: TopK, tau: float, kind: Divergence = "forward", own: float = 0.0) -> RowLoss:
    return token.tail_divergence_(logits / tau, signal.ids, *signal.log_probs(tau, 0), kind, 1.0, own)


def full(logits: Tensor, teacher: Tensor, tau: float, kind: Divergence = "forward", own: float = 0.0) -> RowLoss:
    return token.full_divergence_(logits / tau, teacher / tau, kind, 1.0, own)


def drawn(teacher: Tensor, number: int, seed: int = 0) -> Sampled:
    """Draws from softmax(teacher): their shares, distinct ids, padded."""
    picks = torch.multinomial(torch.softmax(teacher, 1), number, replacement=True, generator=torch.Generator().manual_seed(seed))
    share = torch.zeros_like(teacher).scatter_add_(1, picks, torch.full(picks.shape, 1 / number))
    weights, ids = share.topk(min(number, teacher.shape[1]), dim=1)
    return Sampled(torch.where(weights > 0, ids, 0), weights)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tau", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 5, V])
def test_tail_divergence_and_its_gradient(k: int, tau: float, kind: Divergence) -> None:
    student, teacher = draw(0, C, V), draw(1, C, V)
    signal = top_k_signal(teacher, k, (tau,))
    found = tail(student, signal, tau, kind, own=0.25)
    exact = (student.double() / tau).requires_grad_()
    p = torch.cat([part.double().exp().reshape(C, -1) for part in signal.log_probs(tau, 0)], dim=1)
    q = torch.softmax(exact, 1)
    in_buckets = buckets(q, signal.ids)[:, : None if k < V else -1]  # at k = V there is no bucket
    value = slow_divergence(p[:, : in_buckets.shape[1]], in_buckets, kind)
    value.sum().backward()
    assert exact.grad is not None
    torch.testing.assert_close(found.values.double(), value.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.grad.double(), exact.grad + 0.25 * q.detach(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.log_total.double(), torch.logsumexp(exact.detach(), 1))


@pytest.mark.parametrize(("kind", "teacher_rows"), [*((kind, V) for kind in KINDS), ("forward", V - 4), ("jensen_shannon", V - 4)])
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
    torch.testing.assert_close(found.grad.double(), exact.grad + 0.25 * q.detach(), rtol=1e-3, atol=1e-5)


def test_sampled_cross_entropy_and_its_gradient() -> None:
    student, sampled = draw(0, C, V), drawn(draw(1, C, V), 9)
    found = token.sampled_cross_entropy_(student.clone(), sampled, 1.0, 0.25)
    exact = student.double().requires_grad_()
    log_q = torch.log_softmax(exact, 1)
    value = -(sampled.weights.double() * log_q.gather(1, sampled.ids)).sum(1)
    value.sum().backward()
    assert exact.grad is not None
    torch.testing.assert_close(found.values.double(), value.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.grad.double(), exact.grad + 0.25 * log_q.detach().exp(), rtol=1e-3, atol=1e-5)


def test_many_draws_give_the_full_kl() -> None:
    student, teacher = draw(0, C, V, scale=1.0), draw(1, C, V, scale=1.0)
    exact = full(student, teacher, 1.0)
    found = token.sampled_cross_entropy_(student.clone(), drawn(teacher, 200_000), 1.0, 0.0)
    torch.testing.assert_close(found.grad, exact.grad, rtol=0, atol=5e-3)
    entropy = torch.distributions.Categorical(logits=teacher).entropy()
    torch.testing.assert_close(found.values - entropy, exact.values, rtol=0, atol=2e-2)


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, V), tau=st.sampled_from([0.5, 1.0, 3.0]),
       scale=st.sampled_from([0.1, 3.0, 30.0]), kind=st.sampled_from(KINDS))
def test_buckets_never_exceed_the_whole(seed: int, k: int, tau: float, scale: float, kind: Divergence) -> None:
    student, teacher = draw(seed, C, V, scale=scale), draw(seed + 1, C, V, scale=scale)
    teacher = (teacher - teacher.max(1, keepdim=True).values).half().float()  # what the wire keeps is the teacher here
    in_buckets = tail(student, top_k_signal(teacher, k, (tau,)), tau, kind).values
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
def test_a_student_equal_to_its_teacher_has_no_divergence(seed: int, k: int, kind: Divergence) -> None:
    logits = draw(seed, C, V)
    # The wire rounds logits to half precision: relative errors d <= 2^-11 * |z - max| of probabilities cost about d^2 / 2 nats.
    spread = (logits.amax(1) - logits.amin(1)).max().item()
    assert tail(logits, top_k_signal(logits, k, (1.0,)), 1.0, kind).values.abs().max() < max(1e-6, (spread / 2048) ** 2)
    assert full(logits, logits, 1.0, kind).values.abs().max() < 1e-6
    assert token.full_divergence_(logits.clone(), logits.clone(), kind, 1.0, 0.0).grad.abs().max() < 1e-6


def test_nothing_is_infinite_where_the_student_is_sure_of_something_else() -> None:
    """The teacher's mass far below what float32 can hold, on either side of the k tokens."""
    student, teacher = torch.zeros(2, V), torch.zeros(2, V)
    student[0, 3], student[1, 5], teacher[:, 5] = 200.0, 200.0, 300.0
    for kind in KINDS:
        found = tail(student, top_k_signal(teacher, 1, (1.0,)), 1.0, kind)
        assert found.values.isfinite().all()
        assert found.grad.isfinite().all()
    assert tail(student, top_k_signal(teacher, 1, (1.0,)), 1.0).values.tolist() == pytest.approx([200.0, 0.0], abs=1e-3)


@settings(deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_the_k_tokens_does_not_matter(seed: int) -> None:
    student, signal = draw(seed, C, V), top_k_signal(draw(seed + 1, C, V), 7, (1.0,))
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
    targets = SenseTargets(torch.arange(size), weights, mean, spread, torch.tensor(num_pull) > 0, push, push.square().sum(2), mask)
    return targets, pulls, pushes


def slow_sense(hidden: Tensor, weights: Tensor, pulls: list[Tensor], pushes: list[Tensor], spec: LossSpec, margin: float) -> Tensor:
    """The formula, position by position and sense by sense, in float64."""
    total, size = torch.zeros((), dtype=torch.float64), pulls[0].shape[1]
    for h, plus, minus, weight in zip(hidden, pulls, pushes, weights, strict=True):
        pull = sum(((s.double() - h) ** 2).sum() / size for s in plus) / len(plus) if len(plus) else 0.0
        push = sum(torch.clamp(margin - ((a.double() - h) ** 2).sum() / size, min=0) for a in minus) / len(minus) if len(minus) else 0.0
        total = total + weight.double() * (spec.pull * pull + spec.push * push)
    return total


@settings(deadline=None)
@given(seed=st.integers(0, 1000), num_pull=st.lists(st.integers(0, 4), min_size=3, max_size=3),
       num_push=st.lists(st.integers(0, 4), min_size=3, max_size=3), margin=st.sampled_from([0.5, 2.0, 5.0]))
def test_sense_loss_against_the_formula(seed: int, num_pull: list[int], num_push: list[int], margin: float) -> None:
    targets, pulls, pushes = sense_targets(seed, num_pull, num_push)
    spec = LossSpec(pull=0.7, push=1.3)
    hidden = draw(seed + 7, 3, D, scale=1.0)
    found = sense_loss(hidden, targets, spec, margin)
    exact = hidden.double().requires_grad_()
    total = slow_sense(exact, targets.weights, pulls, pushes, spec, margin)
    torch.testing.assert_close(found.loss.double(), total.detach(), rtol=1e-4, atol=1e-5)
    expected = torch.autograd.grad(total, exact)[0] if total.requires_grad else torch.zeros(3, D, dtype=torch.float64)
    torch.testing.assert_close(found.grad.double(), expected, rtol=1e-3, atol=1e-5)
    assert found.num_pull == sum(n > 0 for n in num_pull)
    assert found.num_push == sum(num_push)


POSITIONS = torch.tensor([0, 1, 2, 4, 5, 6, 8])
TARGETS = torch.randint(0, V, (7,), generator=torch.Generator().manual_seed(0))


def targets_of(signal: str, teacher_hidden: Tensor, teacher_logits: Tensor, tau: float) -> TeacherTargets:
    """The teacher's word in the way of each signal; `topk` with the whole vocabulary."""
    return TeacherTargets(POSITIONS, TARGETS, top_k=top_k_signal(teacher_logits, V, (tau,)) if signal == "topk" else None,
                          hidden=teacher_hidden if signal == "exact" else None,
                          sampled=drawn(teacher_logits / tau, 40) if signal == "sampled" else None)


def dense_kd(signal: str, log_q: Tensor, teacher: TeacherTargets, teacher_logits: Tensor, kind: str, tau: float) -> Tensor:
    """The KL term [7] of a plain implementation. log_q at the temperature."""
    if signal == "sampled":
        assert teacher.sampled is not None
        return -(teacher.sampled.weights.double() * log_q.gather(1, teacher.sampled.ids)).sum(1)
    return slow_divergence(torch.softmax(teacher_logits.double() / tau, 1), log_q.exp(), kind)


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("form", [HeadForm(), HeadForm(0.5, 6.0)], ids=["plain", "scaled and capped"])
@pytest.mark.parametrize("tau", [1.0, 2.0])
@pytest.mark.parametrize(("signal", "kind"), [*(("topk", k) for k in KINDS), *(("exact", k) for k in KINDS),
                                              ("sampled", "forward"), ("hidden", "forward")])
def test_objective_equals_dense_autograd(signal: str, kind: Divergence, tau: float, form: HeadForm, chunk: int) -> None:
    alpha = 0.0 if signal == "hidden" else 0.7
    spec = LossSpec(signal=signal, divergence=kind, top_k=V, temperature=tau, kd_weight=alpha, sense_weight=0.3, chunk_positions=chunk)
    hidden, weight, head, teacher_hidden = draw(0, 1, 9, D, scale=1.0), draw(1, V, D), draw(2, V, D), draw(3, 7, D, scale=1.0)
    senses, pulls, pushes = sense_targets(5, [2, 0, 3], [1, 2, 0])
    teacher_form = HeadForm(2.0, 20.0)
    teacher_logits = torch.tanh((teacher_hidden @ head.T) * 2.0 / 20.0) * 20.0
    teacher = targets_of(signal, teacher_hidden, teacher_logits, tau)
    h, w = hidden.clone().requires_grad_(), torch.nn.Parameter(weight.clone())
    objective = DistillObjective(w, spec, 3.0, form, FrozenHead(head, teacher_form) if signal == "exact" else None)
    loss, stats = objective(h, teacher, senses, Scales(token=1 / 7, sense=1 / 3))
    (2 * loss).backward()  # what comes into backward counts
    h2, w2 = hidden.clone().double().requires_grad_(), weight.clone().double().requires_grad_()
    logits = (h2[0, POSITIONS] @ w2.T) * form.scale
    logits = torch.tanh(logits / form.softcap) * form.softcap if form.softcap else logits
    kd = dense_kd(signal, torch.log_softmax(logits / tau, 1), teacher, teacher_logits, kind, tau)
    ce = torch.nn.functional.cross_entropy(logits, TARGETS)
    dense = ce + alpha * tau**2 * kd.mean() + 0.3 / 3 * slow_sense(h2[0, :3], senses.weights, pulls, pushes, spec, 3.0)
    (2 * dense).backward()
    assert loss.item() == pytest.approx(dense.item(), rel=2e-3)
    for mine, theirs in ((h.grad, h2.grad), (w.grad, w2.grad)):
        assert mine is not None
        assert theirs is not None
        assert torch.cosine_similarity(mine.double().flatten(), theirs.flatten(), dim=0) > 0.9999
        assert mine.norm().item() == pytest.approx(theirs.norm().item(), rel=2e-3)
    named = dict(zip(STATS, stats.tolist(), strict=True))
    assert named["ce"] / 7 == pytest.approx(ce.item(), rel=1e-4)
    assert named["sense_positions"] == 3
    if signal in ("topk", "exact"):
        assert named["agreement_positions"] == math.ceil(min(chunk, 7) / 8) * math.ceil(7 / chunk)
        assert named["overlap"] == named["agreement_positions"]  # k = V
        assert named["teacher_mass"] == pytest.approx(named["agreement_positions"], rel=1e-4)


def test_bfloat16_states_and_head() -> None:
    """Logits and the head's gradient are float32 inside; what comes out is rounded once."""
    hidden, weight, teacher_logits = draw(0, 1, 9, D, scale=1.0), draw(1, V, D), draw(2, 7, V)
    teacher = TeacherTargets(POSITIONS, TARGETS, top_k_signal(teacher_logits, 5, (1.0,)))
    senses, _, _ = sense_targets(5, [2, 0, 3], [1, 2, 0])
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        h, w = hidden.bfloat16().to(dtype).requires_grad_(), torch.nn.Parameter(weight.bfloat16().to(dtype))
        loss, _ = DistillObjective(w, LossSpec(top_k=5, chunk_positions=4), 3.0)(h, teacher, senses, Scales(1 / 7, 1 / 3))
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
    for mine, theirs in ((h.grad, h2.grad), (m.grad, m2.grad)):
        assert theirs is not None
        torch.testing.assert_close(mine, theirs.float(), rtol=1e-4, atol=1e-6)


def test_a_teacher_with_more_rows_speaks_of_the_shared_ones_only() -> None:
    """Rows of the teacher's head that the student lacks: as if the teacher had been cut to the student's rows."""
    head, teacher_hidden, hidden = draw(2, V + 5, D), draw(3, 7, D, scale=1.0), draw(0, 1, 9, D, scale=1.0)
    losses = [DistillObjective(torch.nn.Parameter(draw(1, V, D)), LossSpec(signal="exact", top_k=4), 1.0, teacher_head=FrozenHead(rows))(
        hidden, TeacherTargets(POSITIONS, TARGETS, hidden=teacher_hidden), SenseTargets.empty(D), Scales(1.0, 1.0))[0]
        for rows in (head, head[:V])]
    assert losses[0] == losses[1]


def test_a_frozen_head_gets_no_gradient() -> None:
    weight = torch.nn.Parameter(draw(0, V, D), requires_grad=False)
    hidden = draw(1, 1, 4, D).requires_grad_()
    targets = TeacherTargets(torch.arange(4), torch.arange(4), top_k_signal(draw(2, 4, V), 3, (1.0,)))
    loss, _ = DistillObjective(weight, LossSpec(), 1.0)(hidden, targets, SenseTargets.empty(D), Scales(1.0, 1.0))
    loss.backward()
    assert weight.grad is None
    assert hidden.grad is not None
    assert hidden.grad.abs().sum() > 0


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


@pytest.mark.parametrize("signal", ["topk", "exact", "sampled"])
def test_no_tensor_is_larger_than_a_chunk_of_logits(signal: str) -> None:
    positions, vocab, chunk = 64, 400, 8
    hidden, weight = draw(0, 1, positions, D).requires_grad_(), torch.nn.Parameter(draw(1, vocab, D))
    teacher_logits, targets = draw(2, positions, vocab), torch.zeros(positions, dtype=torch.long)
    teacher = TeacherTargets(torch.arange(positions), targets, top_k_signal(teacher_logits, 5, (1.0,)) if signal == "topk" else None,
                             draw(3, positions, D) if signal == "exact" else None,
                             drawn(teacher_logits, 5) if signal == "sampled" else None)
    head = FrozenHead(draw(4, vocab, D)) if signal == "exact" else None
    objective = DistillObjective(weight, LossSpec(signal=signal, top_k=5, chunk_positions=chunk), 1.0, teacher_head=head)
    with Largest() as seen:
        objective(hidden, teacher, SenseTargets.empty(D), Scales(1.0, 1.0))[0].backward()
    assert seen.numel <= chunk * vocab


def test_the_weights_gradient_is_the_buffer_it_was_added_up_in() -> None:
    """No second [V, D]: autograd keeps what backward returns."""
    hidden, weight = draw(0, 1, 7, D).requires_grad_(), torch.nn.Parameter(draw(1, 40_000, D))
    objective = DistillObjective(weight, LossSpec(signal="hidden", kd_weight=0, chunk_positions=8), 1.0)
    loss, _ = objective(hidden, TeacherTargets(torch.arange(7), torch.arange(7)), SenseTargets.empty(D), Scales(1.0, 1.0))
    buffer = loss.grad_fn.grads.weight.data_ptr()
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.data_ptr() == buffer

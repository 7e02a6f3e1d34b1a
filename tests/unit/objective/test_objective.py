"""The fused objective against a dense one and autograd, its memory, heads of other forms, other hidden sizes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dskd_ds.losses.distributions import Sampled, TopK
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.models.head import FrozenHead, HeadForm
from dskd_ds.objective.chunk import Chunks
from dskd_ds.objective.fused import STATS, DistillObjective, Scales
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.signals.exact import TeacherStates
from dskd_ds.signals.parts.draws import take_draws as teacher_draws
from dskd_ds.signals.parts.top_k import take_top_k
from dskd_ds.spec.loss import Divergence, LossSpec
from tests.unit.losses.test_sense import D, sense_targets, slow_sense
from tests.unit.losses.test_token import KINDS, V, draw, drawn, slow_divergence

POSITIONS = torch.tensor([0, 1, 2, 4, 5, 6, 8])
TARGETS = torch.randint(0, V, (7,), generator=torch.Generator().manual_seed(0))


def targets_of(
    signal: str, teacher_hidden: Tensor, teacher_logits: Tensor, tau: float
) -> TeacherTargets:
    """The teacher's word in the way of each signal; `topk` with the whole vocabulary."""
    return TeacherTargets(
        POSITIONS,
        TARGETS,
        {
            "topk": take_top_k(teacher_logits, V, (tau, 1.0)),
            "exact": TeacherStates(teacher_hidden),
            "sampled": drawn(teacher_logits / tau, 40),
            "hidden": None,
        }[signal],
    )


def dense_kd(
    signal: str,
    log_q: Tensor,
    teacher: TeacherTargets,
    teacher_logits: Tensor,
    kind: str,
    tau: float,
) -> Tensor:
    """The KL term [7] of a plain implementation. log_q at the temperature."""
    if signal == "sampled":
        assert isinstance(teacher.signal, Sampled)
        log_p = torch.log_softmax(teacher_logits.double() / tau, 1)
        return (
            teacher.signal.weights.double() * (log_p - log_q).gather(1, teacher.signal.ids)
        ).sum(1)
    return slow_divergence(torch.softmax(teacher_logits.double() / tau, 1), log_q.exp(), kind)


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
    hidden, weight, head, teacher_hidden = (
        draw(0, 1, 9, D, scale=1.0),
        draw(1, V, D),
        draw(2, V, D),
        draw(3, 7, D, scale=1.0),
    )
    senses, pulls, pushes = sense_targets(5, [2, 0, 3], [1, 2, 0])
    teacher_form = HeadForm(2.0, 20.0)
    teacher_logits = torch.tanh((teacher_hidden @ head.T) * 2.0 / 20.0) * 20.0
    teacher = targets_of(signal, teacher_hidden, teacher_logits, tau)
    h, w = hidden.clone().requires_grad_(), torch.nn.Parameter(weight.clone())
    objective = DistillObjective(
        w, spec, 3.0, form, FrozenHead(head, teacher_form) if signal == "exact" else None
    )
    loss, stats = objective(h, teacher, senses, Scales(token=1 / 7, sense=1 / 3))
    (2 * loss).backward()  # what comes into backward counts
    h2, w2 = hidden.clone().double().requires_grad_(), weight.clone().double().requires_grad_()
    logits = (h2[0, POSITIONS] @ w2.T) * form.scale
    logits = torch.tanh(logits / form.softcap) * form.softcap if form.softcap else logits
    kd = dense_kd(signal, torch.log_softmax(logits / tau, 1), teacher, teacher_logits, kind, tau)
    ce = torch.nn.functional.cross_entropy(logits, TARGETS)
    dense = (
        ce
        + alpha * tau**2 * kd.mean()
        + 0.3 / 3 * slow_sense(h2[0, :3], senses.weights, pulls, pushes, spec, 3.0)
    )
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
        assert named["topk_overlap"] == named["agreement_positions"]  # k = V
        assert named["teacher_mass"] == pytest.approx(named["agreement_positions"], rel=1e-4)


@pytest.mark.parametrize("tau", [1.0, 2.0])
@pytest.mark.parametrize("signal", ["topk", "exact", "sampled"])
def test_a_student_equal_to_its_teacher_has_kl_0_in_every_mode(signal: str, tau: float) -> None:
    """From the teacher's logits to the sum that is charted, but for the wire's rounding of the top k to half precision."""
    hidden, weight = draw(0, 1, 9, D, scale=1.0), draw(1, V, D)
    states = hidden[0, POSITIONS]
    uniforms = torch.rand(7, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    teacher = TeacherTargets(
        POSITIONS,
        TARGETS,
        {
            "topk": take_top_k(states @ weight.T, 5, (tau, 1.0)),
            "exact": TeacherStates(states),
            "sampled": teacher_draws(states @ weight.T, tau, uniforms).sampled(),
        }[signal],
    )
    spec = LossSpec(signal=signal, temperature=tau, top_k=5, sense_weight=0)
    objective = DistillObjective(
        torch.nn.Parameter(weight),
        spec,
        1.0,
        teacher_head=FrozenHead(weight) if signal == "exact" else None,
    )
    stats = objective(hidden, teacher, SenseTargets.empty(D), Scales(1.0, 1.0))[1]
    assert stats[STATS.index("kd")].abs() < (1e-4 if signal == "topk" else 1e-5)
    assert stats[STATS.index("ce")] > 1.0


@pytest.mark.parametrize("signal", ["topk", "exact"])
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_how_much_the_teachers_k_tokens_hold(signal: str, tau: float) -> None:
    """Of both distributions, at the loss's temperature and at 1, on every eighth position of a chunk."""
    k, rows = 5, [0, 3, 6]
    hidden, weight, head, teacher_hidden = (
        draw(0, 1, 9, D, scale=1.0),
        draw(1, V, D),
        draw(2, V, D),
        draw(3, 7, D, scale=1.0),
    )
    of = {"teacher": teacher_hidden @ head.T, "student": hidden[0, POSITIONS] @ weight.T}
    teacher = TeacherTargets(
        POSITIONS,
        TARGETS,
        take_top_k(of["teacher"], k, (tau, 1.0))
        if signal == "topk"
        else TeacherStates(teacher_hidden),
    )
    spec = LossSpec(signal=signal, temperature=tau, top_k=k, chunk_positions=3)
    objective = DistillObjective(
        torch.nn.Parameter(weight),
        spec,
        1.0,
        teacher_head=FrozenHead(head) if signal == "exact" else None,
    )
    stats = objective(hidden, teacher, SenseTargets.empty(D), Scales(1.0, 1.0))[1]
    named = dict(zip(STATS, stats.tolist(), strict=True))
    ids = {who: logits[rows].topk(k, dim=1).indices for who, logits in of.items()}
    assert named["agreement_positions"] == len(rows)
    for who, logits in of.items():
        for name, at in (("", tau), ("_at_1", 1.0)):
            mass = torch.softmax(logits[rows].double() / at, 1).gather(1, ids["teacher"]).sum()
            assert named[f"{who}_mass{name}"] == pytest.approx(mass.item(), rel=1e-3)
    shared = sum(
        len(set(one) & set(two))
        for one, two in zip(*(part.tolist() for part in ids.values()), strict=True)
    )
    assert named["topk_overlap"] == pytest.approx(shared / k)


@pytest.mark.parametrize("product_rows", [4_096, 5])
def test_bfloat16_states_and_head(product_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits and the sum of the head's gradient over chunks are float32 inside, however many rows of it are added at a time."""
    monkeypatch.setattr("dskd_ds.objective.fused.PRODUCT_ROWS", product_rows)
    hidden, weight, teacher_logits = draw(0, 1, 9, D, scale=1.0), draw(1, V, D), draw(2, 7, V)
    teacher = TeacherTargets(POSITIONS, TARGETS, take_top_k(teacher_logits, 5, (1.0,)))
    senses, _, _ = sense_targets(5, [2, 0, 3], [1, 2, 0])
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        h, w = (
            hidden.bfloat16().to(dtype).requires_grad_(),
            torch.nn.Parameter(weight.bfloat16().to(dtype)),
        )
        loss, _ = DistillObjective(w, LossSpec(top_k=5, chunk_positions=4), 3.0)(
            h, teacher, senses, Scales(1 / 7, 1 / 3)
        )
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
    head, teacher_hidden, hidden = (
        draw(2, V + 5, D),
        draw(3, 7, D, scale=1.0),
        draw(0, 1, 9, D, scale=1.0),
    )
    losses = [
        DistillObjective(
            torch.nn.Parameter(draw(1, V, D)),
            LossSpec(signal="exact", top_k=4),
            1.0,
            teacher_head=FrozenHead(rows),
        )(
            hidden,
            TeacherTargets(POSITIONS, TARGETS, TeacherStates(teacher_hidden)),
            SenseTargets.empty(D),
            Scales(1.0, 1.0),
        )[0]
        for rows in (head, head[:V])
    ]
    assert losses[0] == losses[1]


def test_a_frozen_head_gets_no_gradient() -> None:
    weight = torch.nn.Parameter(draw(0, V, D), requires_grad=False)
    hidden = draw(1, 1, 4, D).requires_grad_()
    targets = TeacherTargets(torch.arange(4), torch.arange(4), take_top_k(draw(2, 4, V), 3, (1.0,)))
    loss, _ = DistillObjective(weight, LossSpec(), 1.0)(
        hidden, targets, SenseTargets.empty(D), Scales(1.0, 1.0)
    )
    loss.backward()
    assert weight.grad is None
    assert hidden.grad is not None
    assert hidden.grad.abs().sum() > 0


class NoCopies(TorchFunctionMode):
    """Refuses what would be a blocking copy from the host to a GPU. A meta tensor has no content: to read any raises anyway."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (Tensor.new_tensor, torch.tensor, torch.as_tensor), (
            "a copy from the host"
        )
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("signal", ["topk", "exact", "sampled", "hidden"])
@pytest.mark.parametrize(("device", "blocks"), [("cpu", [32, 18, 10]), ("meta", [50, 10])])
def test_blocks_are_a_cpus_and_no_other_device_is_waited_for(
    signal: str, device: str, blocks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    found: list[int] = []
    whole = Chunks._block_
    monkeypatch.setattr(
        Chunks,
        "_block_",
        lambda self, product, *rest: found.append(len(product)) or whole(self, product, *rest),
    )
    ids, k_ids = of(60, dtype=torch.long), of(60, 5, dtype=torch.long)
    of_teacher = {
        "topk": TopK(k_ids, of(60, 5), of(60, 1)),
        "exact": TeacherStates(of(60, D)),
        "sampled": Sampled(k_ids, of(60, 5), of(60)),
    }.get(signal)
    senses = SenseTargets(
        ids[:3], of(3), of(3, D), of(3), of(3).bool(), of(3, 2, D), of(3, 2), of(3, 2).bool()
    )
    spec = LossSpec(
        signal=signal, top_k=5, kd_weight=0 if signal == "hidden" else 0.7, chunk_positions=50
    )
    objective = DistillObjective(
        torch.nn.Parameter(of(V, D)),
        spec,
        1.0,
        teacher_head=FrozenHead(of(V, D)) if signal == "exact" else None,
    )
    hidden = of(1, 70, D).requires_grad_()
    with NoCopies():
        objective(hidden, TeacherTargets(ids, ids, of_teacher), senses, Scales(1.0, 1.0))[
            0
        ].backward()
    assert hidden.grad is not None
    assert found == blocks


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
    hidden, weight = (
        draw(0, 1, positions, D).requires_grad_(),
        torch.nn.Parameter(draw(1, vocab, D)),
    )
    teacher_logits, targets = draw(2, positions, vocab), torch.zeros(positions, dtype=torch.long)
    teacher = TeacherTargets(
        torch.arange(positions),
        targets,
        {
            "topk": take_top_k(teacher_logits, 5, (1.0,)),
            "exact": TeacherStates(draw(3, positions, D)),
            "sampled": drawn(teacher_logits, 5),
        }[signal],
    )
    head = FrozenHead(draw(4, vocab, D)) if signal == "exact" else None
    objective = DistillObjective(
        weight, LossSpec(signal=signal, top_k=5, chunk_positions=chunk), 1.0, teacher_head=head
    )
    with Largest() as seen:
        objective(hidden, teacher, SenseTargets.empty(D), Scales(1.0, 1.0))[0].backward()
    assert seen.numel <= chunk * vocab


def test_the_weights_gradient_is_the_buffer_it_was_added_up_in() -> None:
    """No second [V, D]: autograd keeps what backward returns."""
    hidden, weight = draw(0, 1, 7, D).requires_grad_(), torch.nn.Parameter(draw(1, 40_000, D))
    objective = DistillObjective(
        weight, LossSpec(signal="hidden", kd_weight=0, chunk_positions=8), 1.0
    )
    loss, _ = objective(
        hidden,
        TeacherTargets(torch.arange(7), torch.arange(7)),
        SenseTargets.empty(D),
        Scales(1.0, 1.0),
    )
    buffer = loss.grad_fn.grads.weight.data_ptr()
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.data_ptr() == buffer

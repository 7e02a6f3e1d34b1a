"""The fused objective against a plain full-vocabulary one (autograd over all logits at once): memory, time, gradients, draws.

Sizes of SmolLM2: V = 49,152, D = 576. Workspace is peak memory beyond inputs, parameters and gradients (bench/peak_memory.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from dskd_ds.bench.measure import Figure, interleaved_seconds
from dskd_ds.bench.peak_memory import Work, workspace_bytes
from dskd_ds.losses import token
from dskd_ds.losses.distributions import TopK
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.models.head import FrozenHead
from dskd_ds.objective.fused import DistillObjective, Scales
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.signals.exact import TeacherStates
from dskd_ds.signals.parts.chunks import concatenate
from dskd_ds.signals.parts.draws import take_draws
from dskd_ds.signals.parts.top_k import take_top_k
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.spec.loss import LossSpec, SignalName

VOCAB, SIZE, TOP_K, POSITIONS, MORE_POSITIONS = 49_152, 576, 64, 2_048, 8_192
SIGNALS: tuple[SignalName, ...] = ("topk", "exact")
"""The two whose dense counterpart keeps the most and the least for backward."""
ALPHA = 0.7
COSINE_POSITIONS = 256
DRAWS = (12, 25, 50, 100)
QUICKSTART = "ds_configs/runs/quickstart.toml"


@dataclass(frozen=True)
class Case:
    """The objective's input: the student's states and head, and the teacher's word."""

    hidden: Tensor
    """[N, D]"""
    head: nn.Parameter
    targets: TeacherTargets
    teacher_head: Tensor | None

    def first(self, number: int) -> Case:
        """The first positions of it."""
        return Case(
            self.hidden[:number].detach().requires_grad_(),
            self.head,
            self.targets[:number],
            self.teacher_head,
        )


def random_case(signal: SignalName, number: int) -> Case:
    """Positions with as much spread in their logits as a language model's."""
    generator = torch.Generator().manual_seed(0)
    hidden, teacher_hidden = (torch.randn(number, SIZE, generator=generator) for _ in range(2))
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
        torch.arange(number),
        torch.randint(0, VOCAB, (number,), generator=generator),
        of_teacher,
    )
    return Case(
        hidden.requires_grad_(),
        nn.Parameter(head),
        targets,
        teacher_head if signal == "exact" else None,
    )


def fused(case: Case, signal: SignalName) -> None:
    """Loss and gradients by the objective."""
    spec = LossSpec(signal=signal, top_k=TOP_K, kd_weight=ALPHA, sense_weight=0)
    teacher_head = FrozenHead(case.teacher_head) if case.teacher_head is not None else None
    objective = DistillObjective(case.head, spec, 1.0, teacher_head=teacher_head)
    count = 1 / len(case.hidden)
    loss, _ = objective(
        case.hidden[None], case.targets, SenseTargets.empty(SIZE), Scales(count, count)
    )
    loss.backward()


def dense(case: Case, signal: SignalName) -> None:
    """The same by autograd over [N, V]: one log-softmax serves both terms, the teacher's needs no gradient."""
    log_q = torch.log_softmax(case.hidden @ case.head.T, dim=1)
    ce = functional.nll_loss(log_q, case.targets.targets)
    if signal == "exact":
        assert isinstance(case.targets.signal, TeacherStates)
        assert case.teacher_head is not None
        log_p = torch.log_softmax(case.targets.signal.hidden @ case.teacher_head.T, dim=1)
        kd = functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    else:
        assert isinstance(case.targets.signal, TopK)
        ids, (log_p, log_p_rest) = case.targets.signal.ids, case.targets.signal.log_probs(1.0, 0)
        log_q_rest = torch.logsumexp(log_q.scatter(1, ids, -torch.inf), dim=1)
        kd = (
            (log_p.exp() * (log_p - log_q.gather(1, ids))).sum(1)
            + log_p_rest.exp() * (log_p_rest - log_q_rest)
        ).mean()
    (ce + ALPHA * kd).backward()


WAYS: dict[str, Callable[[Case, SignalName], None]] = {"fused": fused, "dense": dense}


def clear(case: Case) -> None:
    """Forget the gradients."""
    case.hidden.grad = case.head.grad = None


def objective_work(way: str, signal: SignalName, number: int) -> Work:
    """For workspace_bytes, in its process."""
    case = random_case(signal, number)

    def warm_up() -> None:
        WAYS[way](case.first(64), signal)
        clear(case)

    def gradients() -> int:
        assert case.hidden.grad is not None
        assert case.head.grad is not None
        return case.hidden.grad.nbytes + case.head.grad.nbytes

    return Work(warm_up, partial(WAYS[way], case, signal), gradients)


def bench_workspace() -> list[Figure]:
    """Memory of the fused objective against the dense one, and how it grows with the number of positions."""
    mebibytes = {
        (way, signal, number): workspace_bytes(objective_work, way, signal, number) / 2**20
        for signal in SIGNALS
        for way, number in (("fused", POSITIONS), ("dense", POSITIONS), ("fused", MORE_POSITIONS))
    }
    ratios = {
        s: mebibytes["fused", s, POSITIONS] / mebibytes["dense", s, POSITIONS] for s in SIGNALS
    }
    growths = {
        s: mebibytes["fused", s, MORE_POSITIONS] / mebibytes["fused", s, POSITIONS] for s in SIGNALS
    }
    notes = {
        f"{way}, {signal}, {number} positions": f"{value:.0f} MiB"
        for (way, signal, number), value in mebibytes.items()
    }
    return [
        Figure(
            "objective_memory_ratio",
            f"workspace, fused / dense, the worse of {', '.join(SIGNALS)}",
            max(ratios.values()),
            0.1,
            "lower",
            notes,
        ),
        Figure(
            "workspace_growth",
            f"fused workspace, {MORE_POSITIONS} / {POSITIONS} positions",
            max(growths.values()),
            1.15,
            "lower",
        ),
    ]


def bench_time() -> list[Figure]:
    """Time of the fused objective against the dense one, and against its four (`topk`: three) matrix products alone."""
    ratios: dict[str, float] = {}
    notes: dict[str, str] = {}
    for signal in SIGNALS:
        case = random_case(signal, POSITIONS)
        products = partial(bare_products, case, 4 if signal == "exact" else 3)
        seconds = interleaved_seconds(
            {name: partial(_once, way, case, signal) for name, way in WAYS.items()}
            | {"products": products}
        )
        ratios[signal] = seconds["fused"] / seconds["dense"]
        notes[signal] = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
    return [
        Figure(
            "objective_time_ratio",
            f"time, fused / dense, the worse of {', '.join(SIGNALS)}",
            max(ratios.values()),
            1.1,
            "lower",
            notes,
        )
    ]


def _once(way: Callable[[Case, SignalName], None], case: Case, signal: SignalName) -> None:
    clear(case)
    way(case, signal)


def bare_products(case: Case, number: int) -> None:
    """The floor: as many products of [N, V, D] as the objective cannot do without, and nothing else."""
    logits = case.hidden.detach() @ case.head.detach().T
    for _ in range(number - 3):
        torch.mm(case.hidden.detach(), case.head.detach().T, out=logits)
    logits @ case.head.detach()
    logits.T @ case.hidden.detach()


@dataclass(frozen=True)
class RealStates:
    """The quickstart's teacher and its student before training, on held-out text: the same N positions."""

    teacher: Tensor
    """[N, D] after the final norm."""
    student: Tensor
    teacher_head: Tensor
    """[V, D]"""
    student_head: Tensor
    targets: Tensor
    """[N] the tokens that come next."""


@torch.no_grad()
def real_states(number: int) -> RealStates:
    """Raises InputError where the quickstart's input is not there."""
    from dskd_ds.data.batches import Sample, make_batch
    from dskd_ds.data.blocks import heldout_blocks
    from dskd_ds.models.frozen import load_teacher
    from dskd_ds.models.named import NamedModel, RunModels
    from dskd_ds.student.depth import student_init

    spec: RunSpec = load_spec(QUICKSTART, [])
    models = RunModels.of(spec)
    teacher, student = (
        load_teacher(NamedModel(path, dtype="float32"), torch.device("cpu"))
        for path in (spec.teacher.model, student_init(spec, models).path)
    )
    blocks = heldout_blocks(spec.data, models.teacher.tokenizer)
    rows = range(-(-number // (spec.data.block_tokens - 1)) + 1)
    batch = make_batch([blocks[i] for i in rows], [Sample(0, i) for i in rows])
    at = batch.supervised[:number]
    states = [
        model.hidden_states(batch.input_ids, batch.position_ids).flatten(0, 1)[at].float()
        for model in (teacher, student)
    ]
    return RealStates(
        *(
            tensor.clone()
            for tensor in (
                *states,
                teacher.head.float(),
                student.head.float(),
                batch.targets.flatten()[at],
            )
        )
    )


def bench_gradients() -> list[Figure]:
    """Gradients of `exact` (teacher's states in bfloat16, as they travel) and of `topk` at k = V against dense float32, on real text."""
    real = real_states(COSINE_POSITIONS)
    positions = torch.arange(COSINE_POSITIONS)
    reference = TeacherTargets(positions, real.targets, TeacherStates(real.teacher))
    words = {
        "exact": TeacherTargets(positions, real.targets, TeacherStates(real.teacher.bfloat16())),
        "tail": TeacherTargets(
            positions,
            real.targets,
            take_top_k(real.teacher @ real.teacher_head.T, VOCAB, (1.0,)),
        ),
    }
    expected = gradient(
        dense,
        Case(
            real.student.clone().requires_grad_(),
            nn.Parameter(real.student_head),
            reference,
            real.teacher_head,
        ),
        "exact",
    )
    signals: dict[str, SignalName] = {"exact": "exact", "tail": "topk"}
    cosines = {}
    for name, word in words.items():
        case = Case(
            real.student.clone().requires_grad_(),
            nn.Parameter(real.student_head),
            word,
            real.teacher_head if name == "exact" else None,
        )
        found = gradient(fused, case, signals[name])
        cosines[name] = min(
            functional.cosine_similarity(a, b, dim=0).item()
            for a, b in zip(found, expected, strict=True)
        )
    what = {"exact": "`exact` from bfloat16 states", "tail": "`topk` at k = V"}
    return [
        Figure(
            f"{name}_cosine",
            f"{what[name]}: gradient's cosine with dense float32 (the worse of states and head)",
            cosine,
            0.9999,
        )
        for name, cosine in cosines.items()
    ]


def gradient(
    way: Callable[[Case, SignalName], None], case: Case, signal: SignalName
) -> tuple[Tensor, Tensor]:
    """Gradients of the states and of the head, flat, in float64."""
    way(case, signal)
    assert case.hidden.grad is not None
    assert case.head.grad is not None
    return case.hidden.grad.flatten().double(), case.head.grad.flatten().double()


@torch.no_grad()
def bench_sampled() -> list[Figure]:
    """Angle between the head's weight gradient from draws and from the full KL, over the same positions at tau 1, on real text."""
    real = real_states(POSITIONS)
    generator = torch.Generator().manual_seed(0)
    full, sampled = (
        torch.zeros_like(real.student_head),
        {number: torch.zeros_like(real.student_head) for number in DRAWS},
    )
    different = dict.fromkeys(DRAWS, 0)
    for teacher, student in zip(real.teacher.split(128), real.student.split(128), strict=True):
        logits, teacher_logits = student @ real.student_head.T, teacher @ real.teacher_head.T
        for number, total in sampled.items():
            uniforms = torch.rand(
                len(teacher_logits), number, generator=generator, dtype=torch.float64
            )
            drawn = take_draws(teacher_logits, 1.0, uniforms).sampled()
            different[number] += int((drawn.weights > 0).sum())
            total.addmm_(token.sampled_kl_(logits.clone(), drawn, 1.0, 0.0).grad.T, student)
        full.addmm_(
            token.full_divergence_(logits, teacher_logits, "forward", 1.0, 0.0).grad.T, student
        )
    angles = {number: angle_degrees(total, full) for number, total in sampled.items()}
    notes = {
        f"{number} draws": f"{angles[number]:.2f} degrees, {different[number] / POSITIONS:.1f} different tokens a position"
        for number in DRAWS
    }
    chosen = LossSpec().num_draws
    return [
        Figure(
            "sampled_angle_degrees",
            f"head's weight gradient from {chosen} draws against full KL's, {POSITIONS} positions",
            angles[chosen],
            4.0,
            "lower",
            notes,
        )
    ]


def angle_degrees(left: Tensor, right: Tensor) -> float:
    """Between two tensors, as vectors."""
    cosine = functional.cosine_similarity(left.flatten().double(), right.flatten().double(), dim=0)
    return math.degrees(math.acos(min(1.0, cosine.item())))


BENCHES: dict[str, Callable[[], list[Figure]]] = {
    "workspace": bench_workspace,
    "time": bench_time,
    "gradients": bench_gradients,
    "sampled": bench_sampled,
}

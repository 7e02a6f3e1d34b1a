"""Compares gradients of the fused objective with dense references, on the quickstart's models."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from dskd_ds.bench.measure import Figure
from dskd_ds.bench.objective_case import VOCAB, Case, dense, fused
from dskd_ds.bench.real_text import NUM_POSITIONS, ROWS, BothOnText, both_on_text
from dskd_ds.losses import token
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.signals.exact import TeacherStates
from dskd_ds.signals.parts.draws import take_draws
from dskd_ds.signals.parts.top_k import take_top_k
from dskd_ds.spec.loss import LossSpec

COSINE_POSITIONS = 256
DRAWS = (12, 25, 50, 100)
"""Numbers of draws per position that are tried."""


def bench_gradients() -> list[Figure]:
    """Return the cosines of two gradients with the dense gradient in float32.

    The two are `exact` from states in bfloat16, as they are sent, and `topk` at k = V.
    """
    text = both_on_text(COSINE_POSITIONS)
    positions = torch.arange(COSINE_POSITIONS)
    reference = TeacherTargets(positions, text.targets, TeacherStates(text.teacher))
    exact = TeacherTargets(positions, text.targets, TeacherStates(text.teacher.bfloat16()))
    tail = TeacherTargets(
        positions,
        text.targets,
        take_top_k(text.teacher @ text.teacher_head.T, VOCAB, (1.0,)),
    )
    reference_case = _case(text, reference, text.teacher_head)
    exact_case = _case(text, exact, text.teacher_head)
    tail_case = _case(text, tail, teacher_head=None)
    # With k = V nothing is left for the tail, so `topk` must give the gradient of the full KL.
    dense(reference_case, "exact")
    fused(exact_case, "exact")
    fused(tail_case, "topk")
    return [
        _cosine_figure("exact_cosine", "`exact` from bfloat16 states", exact_case, reference_case),
        _cosine_figure("tail_cosine", "`topk` at k = V", tail_case, reference_case),
    ]


def _case(text: BothOnText, targets: TeacherTargets, teacher_head: Tensor | None) -> Case:
    """Return a case with its own leaf tensors, so that gradients do not mix."""
    return Case(
        hidden=text.student.clone().requires_grad_(),
        head=nn.Parameter(text.student_head),
        targets=targets,
        teacher_head=teacher_head,
    )


def _cosine_figure(key: str, what: str, case: Case, reference: Case) -> Figure:
    """Return the smaller cosine of the gradients of states and head with those of `reference`."""
    cosines = [
        functional.cosine_similarity(flat(gradient), flat(expected), dim=0).item()
        for gradient, expected in zip(case.gradients(), reference.gradients(), strict=True)
    ]
    return Figure(
        key=key,
        what=f"{what}: gradient's cosine with dense float32 (the worse of states and head)",
        value=min(cosines),
        target=0.9999,
    )


def flat(tensor: Tensor) -> Tensor:
    """Return a tensor as a float64 vector."""
    return tensor.flatten().double()


@torch.no_grad()
def bench_sampled() -> list[Figure]:
    """Return the angle between the head's gradients from draws and from the full KL, at tau 1.

    Both sum over the same positions of real text.
    """
    text = both_on_text(NUM_POSITIONS)
    generator = torch.Generator().manual_seed(0)
    full = torch.zeros_like(text.student_head)
    sampled = {num_draws: torch.zeros_like(text.student_head) for num_draws in DRAWS}
    num_different = dict.fromkeys(DRAWS, 0)
    for teacher, student in zip(text.teacher.split(ROWS), text.student.split(ROWS), strict=True):
        logits, teacher_logits = student @ text.student_head.T, teacher @ text.teacher_head.T
        for num_draws, total in sampled.items():
            uniforms = torch.rand(
                len(teacher_logits), num_draws, generator=generator, dtype=torch.float64
            )
            drawn = take_draws(teacher_logits, 1.0, uniforms).sampled()
            num_different[num_draws] += int((drawn.weights > 0).sum())
            # The losses overwrite the logits, which the next numbers of draws need too.
            gradient = token.sampled_kl_(logits.clone(), drawn, 1.0, 0.0).grad
            total.addmm_(gradient.T, student)
        gradient = token.full_divergence_(logits, teacher_logits, "forward", 1.0, 0.0).grad
        full.addmm_(gradient.T, student)
    angles = {num_draws: angle_degrees(total, full) for num_draws, total in sampled.items()}
    notes = {}
    for num_draws in DRAWS:
        different = num_different[num_draws] / NUM_POSITIONS
        notes[f"{num_draws} draws"] = (
            f"{angles[num_draws]:.2f} degrees, {different:.1f} different tokens per position"
        )
    default = LossSpec().num_draws
    return [
        Figure(
            key="sampled_angle_degrees",
            what=f"angle between the head's gradients from {default} draws and from the full KL, "
            f"{NUM_POSITIONS} positions",
            value=angles[default],
            target=4.0,
            better="lower",
            notes=notes,
        )
    ]


def angle_degrees(left: Tensor, right: Tensor) -> float:
    """Return the angle between two tensors, taken as vectors."""
    cosine = functional.cosine_similarity(flat(left), flat(right), dim=0)
    return math.degrees(math.acos(min(1.0, cosine.item())))


BENCHES: dict[str, Callable[[], list[Figure]]] = {
    "gradients": bench_gradients,
    "sampled": bench_sampled,
}

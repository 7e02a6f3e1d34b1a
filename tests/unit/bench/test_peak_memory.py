"""Measured work space against work whose need is known; and what a trained head in bfloat16 needs."""

from __future__ import annotations

import torch

from dskd_ds.bench.peak_memory import Work, workspace_bytes
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.objective.fused import PRODUCT_ROWS, DistillObjective, Scales
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.spec.loss import LossSpec

MEGABYTES = 64
VOCAB, SIZE, POSITIONS = 65_536, 512, 8
"""A head of 64 MiB in bfloat16, of 128 in float32."""


def known_work(megabytes: int) -> Work:
    """Touches so many megabytes, of which half stay behind as gradients."""
    kept: list[torch.Tensor] = []

    def run() -> None:
        kept.append(torch.ones(megabytes << 17))
        torch.ones(megabytes << 17)

    return Work(lambda: torch.ones(1 << 20), run, lambda: megabytes << 19)


def test_workspace_is_the_peak_less_the_gradients() -> None:
    found = workspace_bytes(known_work, MEGABYTES)
    assert abs(found - (MEGABYTES << 19)) < 4 << 20


def bfloat16_head() -> Work:
    """The objective's forward, which forms the head's gradient in a float32 buffer of its own, in two chunks."""
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Parameter(
        torch.randn(VOCAB, SIZE, generator=generator, dtype=torch.bfloat16) / 16
    )
    hidden = torch.randn(
        1, POSITIONS, SIZE, generator=generator, dtype=torch.bfloat16
    ).requires_grad_()
    targets = TeacherTargets(torch.arange(POSITIONS), torch.arange(POSITIONS))
    objective = DistillObjective(
        head, LossSpec(signal="hidden", kd_weight=0, chunk_positions=POSITIONS // 2), 1.0
    )
    kept: list[torch.Tensor] = []

    def run() -> None:
        kept.append(objective(hidden, targets, SenseTargets.empty(SIZE), Scales(1.0, 1.0))[0])

    def warm_up() -> None:
        torch.mm(hidden[0], head[:PRODUCT_ROWS].T)

    return Work(warm_up, run, lambda: VOCAB * SIZE * 4)


def test_a_bfloat16_heads_gradient_needs_its_sum_and_little_more() -> None:
    """29 MiB; 202 with the whole product of a chunk, for which this CPU's library needs a float32 copy too."""
    assert workspace_bytes(bfloat16_head) < 48 << 20

"""Measured workspace of work with a known need, and of the objective with a bfloat16 head."""

from __future__ import annotations

import torch

from dskd_ds.bench.peak_memory import Work, workspace_bytes
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.objective.fused import PRODUCT_ROWS, DistillObjective, Scales
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.spec.loss import LossSpec

MEGABYTES = 64
VOCAB, SIZE, POSITIONS = 65_536, 512, 8
"""Sizes of a head with 64 MiB in bfloat16 and 128 MiB in float32."""


def known_work(megabytes: int) -> Work:
    """Return work that touches this many mebibytes and keeps half of them as gradients."""
    kept: list[torch.Tensor] = []

    def run() -> None:
        kept.append(torch.ones(megabytes << 17))
        torch.ones(megabytes << 17)

    return Work(lambda: torch.ones(1 << 20), run, lambda: megabytes << 19)


def test_workspace_is_the_peak_less_the_gradients() -> None:
    found = workspace_bytes(known_work, MEGABYTES)
    assert abs(found - (MEGABYTES << 19)) < 4 << 20


def bfloat16_head() -> Work:
    """Return the objective's forward pass in two chunks; it sums the head's gradient in float32."""
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Parameter(
        torch.randn(VOCAB, SIZE, generator=generator, dtype=torch.bfloat16) / 16
    )
    hidden = torch.randn(1, POSITIONS, SIZE, generator=generator, dtype=torch.bfloat16)
    hidden.requires_grad_()
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


def test_a_bfloat16_head_needs_workspace_for_the_sum_of_its_gradient_only() -> None:
    """It needed 29 MiB when this was written.

    It needs 202 MiB if a chunk's whole product is computed at once: the CPU library makes a float32
    copy of it.
    """
    assert workspace_bytes(bfloat16_head) < 48 << 20

"""Compares memory and time of the fused objective with those of the dense reference.

Workspace is peak memory beyond inputs, parameters and gradients (bench/peak_memory.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from dskd_ds.bench.measure import Figure, interleaved_seconds
from dskd_ds.bench.objective_case import VARIANTS, Case, Variant, random_case
from dskd_ds.bench.peak_memory import Work, workspace_bytes
from dskd_ds.spec.loss import SignalName

NUM_POSITIONS, MORE_POSITIONS = 2_048, 8_192
WARM_UP_POSITIONS = 64
SIGNALS: tuple[SignalName, ...] = ("topk", "exact")
"""The signals whose dense reference stores the most and the least for the backward pass."""


def bench_workspace() -> list[Figure]:
    """Return the memory ratio of both variants, and the memory's growth with more positions."""
    # Only the fused objective is measured with more positions: the dense one stores all logits.
    cases = (("fused", NUM_POSITIONS), ("dense", NUM_POSITIONS), ("fused", MORE_POSITIONS))
    ratios, growths = [], []
    notes: dict[str, str] = {}
    for signal in SIGNALS:
        mebibytes: dict[tuple[str, int], float] = {}
        for variant, num_positions in cases:
            value = _workspace_mebibytes(variant, signal, num_positions)
            mebibytes[variant, num_positions] = value
            notes[f"{variant}, {signal}, {num_positions} positions"] = f"{value:.0f} MiB"
        fused = mebibytes["fused", NUM_POSITIONS]
        ratios.append(fused / mebibytes["dense", NUM_POSITIONS])
        growths.append(mebibytes["fused", MORE_POSITIONS] / fused)
    return [
        Figure(
            key="objective_memory_ratio",
            what=f"workspace: fused / dense, the worse of {', '.join(SIGNALS)}",
            value=max(ratios),
            target=0.1,
            better="lower",
            notes=notes,
        ),
        Figure(
            key="workspace_growth",
            what=f"fused workspace: {MORE_POSITIONS} / {NUM_POSITIONS} positions",
            value=max(growths),
            target=1.15,
            better="lower",
        ),
    ]


def _workspace_mebibytes(variant: str, signal: SignalName, num_positions: int) -> float:
    """Return the workspace of one variant, measured in a new process."""
    return workspace_bytes(objective_work, variant, signal, num_positions) / 2**20


def objective_work(variant: str, signal: SignalName, num_positions: int) -> Work:
    """Return the work that `workspace_bytes` measures; it calls this in the new process."""
    case = random_case(signal, num_positions)

    def warm_up() -> None:
        VARIANTS[variant](case.first(WARM_UP_POSITIONS), signal)
        case.clear_gradients()

    def gradient_bytes() -> int:
        return sum(gradient.nbytes for gradient in case.gradients())

    return Work(warm_up, partial(VARIANTS[variant], case, signal), gradient_bytes)


def bench_time() -> list[Figure]:
    """Return the time ratio of both variants; the notes add the time of the products alone."""
    ratios: list[float] = []
    notes: dict[str, str] = {}
    for signal in SIGNALS:
        case = random_case(signal, NUM_POSITIONS)
        variants = {
            name: partial(_run_once, variant, case, signal) for name, variant in VARIANTS.items()
        }
        # `exact` needs a fourth product, for the teacher's logits.
        products = partial(bare_products, case, 4 if signal == "exact" else 3)
        seconds = interleaved_seconds({**variants, "products": products})
        ratios.append(seconds["fused"] / seconds["dense"])
        notes[signal] = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
    return [
        Figure(
            key="objective_time_ratio",
            what=f"time: fused / dense, the worse of {', '.join(SIGNALS)}",
            value=max(ratios),
            target=1.1,
            better="lower",
            notes=notes,
        )
    ]


def _run_once(variant: Variant, case: Case, signal: SignalName) -> None:
    """Run a variant from the same state as the first time: without gradients."""
    case.clear_gradients()
    variant(case, signal)


def bare_products(case: Case, count: int) -> None:
    """Run the floor: the `count` (at least 3) products of [N, V, D] that the objective needs.

    Three are the logits and the gradients of states and head.
    """
    hidden, head = case.hidden.detach(), case.head.detach()
    logits = hidden @ head.T
    for _ in range(count - 3):
        torch.mm(hidden, head.T, out=logits)
    logits @ head
    logits.T @ hidden


BENCHES: dict[str, Callable[[], list[Figure]]] = {
    "workspace": bench_workspace,
    "time": bench_time,
}

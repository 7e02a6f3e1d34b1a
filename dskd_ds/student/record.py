"""One step's record for metrics.jsonl, from the sums of all ranks."""

from __future__ import annotations

from collections.abc import Sequence

import deepspeed
import torch
from torch import Tensor

from dskd_ds.losses.sense import COVERAGE
from dskd_ds.losses.token import AGREEMENT
from dskd_ds.student.counts import Counts
from dskd_ds.student.deepspeed_engine import Engine
from dskd_ds.student.replies.feed import StepInput
from dskd_ds.student.step_health import RankStep, StepHealth

MEANS = {
    "sense_pull_distance": ("pull_distance", "num_pull"),
    "sense_push_active": ("push_active", "num_push"),
    **{name: (name, "agreement_positions") for name in AGREEMENT},
    **{f"sense_with_{name}": (name, "sense_positions") for name in COVERAGE},
}
"""Key of the record -> (sum, what it is divided by)."""
INPUT_SUMS = {
    "link_bytes": "link_bytes",
    "tokens": "num_tokens",
    "cache_asked": "cache_asked",
    "cache_kept": "cache_kept",
}
"""Name of a sum -> attribute of the step's input."""


def all_reduce_record(
    engine: Engine,
    local_sums: Tensor,
    step_input: StepInput,
    counts: Counts,
    health: StepHealth,
    own_step: RankStep,
) -> dict[str, float]:
    """Return the step's record, the same on all ranks. A collective call.

    local_sums: of this rank, in the order of the module's `stat_names`. health: has measured this
    rank's `own_step`.
    """
    total = _all_reduce_sums(engine.module.stat_names, local_sums, step_input)
    times_and_memory = health.all_gather_record(own_step)
    num_tokens = total["tokens"]
    means = {
        key: total[name] / total[over] if total[over] else 0.0
        for key, (name, over) in MEANS.items()
    }
    cache = {}
    if total["cache_asked"]:
        cache["cache_hit_rate"] = total["cache_kept"] / total["cache_asked"]
    return {
        **engine.module.loss_record(total, counts),
        "grad_norm": float(engine.get_global_grad_norm() or 0.0),
        "lr": engine.get_lr()[0],
        **means,
        "sense_positions": total["sense_positions"],
        "step_tokens": num_tokens,
        **times_and_memory,
        "tokens_per_second": num_tokens / times_and_memory["step_seconds"],
        "link_bytes": total["link_bytes"],
        "link_bytes_per_token": total["link_bytes"] / num_tokens,
        **cache,
    }


def _all_reduce_sums(
    names: Sequence[str], local_sums: Tensor, step_input: StepInput
) -> dict[str, float]:
    """Add up the step's sums over all ranks, by name. A collective call."""
    coverages = [batch.senses.coverage for batch in step_input.micro_batches]
    coverage = torch.stack(coverages).sum(dim=0)
    sizes = local_sums.new_tensor([getattr(step_input, name) for name in INPUT_SUMS.values()])
    sums = torch.cat([local_sums, sizes, coverage.to(local_sums)])
    deepspeed.comm.all_reduce(sums)
    return dict(zip((*names, *INPUT_SUMS, *COVERAGE), sums.tolist(), strict=True))

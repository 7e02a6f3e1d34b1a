"""What memory and traffic depend on in a DeepSpeed file. Loads no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from dskd_ds.errors import InputError
from dskd_ds.spec.shipped import DEEPSPEED_CONFIGS, shipped_file


@dataclass(frozen=True)
class ZeroSettings:
    """ZeRO's settings with DeepSpeed's defaults (0.19.8). Counts are numbers, not bytes."""

    stage: int
    reduce_bucket: int = 500_000_000
    overlap_comm: bool = True
    reduce_scatter: bool = True
    sub_group: int = 1_000_000_000
    prefetch_bucket: int = 50_000_000
    max_live: int = 1_000_000_000
    max_reuse_distance: int = 1_000_000_000
    persistence_threshold: int = 100_000
    hpz_ranks: int = 1
    """Ranks of a group that keeps a second copy of the weights (ZeRO++ hpZ); 1: none."""
    offloads_optimizer: bool = False
    offloads_parameters: bool = False


def zero_settings(deepspeed: str) -> ZeroSettings:
    """Read a DeepSpeed file, or the shipped file that the path names.

    Raises InputError if it is missing, not JSON, or names no valid ZeRO stage.
    """
    file = shipped_file(deepspeed, DEEPSPEED_CONFIGS, f'deepspeed = "{deepspeed}", but ')
    try:
        zero: dict[str, Any] = json.loads(file.read_text()).get("zero_optimization", {})
    except json.JSONDecodeError as error:
        raise InputError(f"{deepspeed}: the file is not valid JSON: {error}.") from None
    stage = zero.get("stage")
    if stage not in (0, 1, 2, 3):
        raise InputError(
            f"{deepspeed}: zero_optimization.stage = {stage} is invalid.\n"
            "  set it to 0, 1, 2 or 3, as ds_configs/zero3.json does."
        )
    return ZeroSettings(
        stage=stage,
        reduce_bucket=int(zero.get("reduce_bucket_size", 5e8)),
        overlap_comm=bool(zero.get("overlap_comm", stage == 3)),
        reduce_scatter=bool(zero.get("reduce_scatter", True)),
        sub_group=int(zero.get("sub_group_size", 1e9)),
        prefetch_bucket=int(zero.get("stage3_prefetch_bucket_size", 5e7)),
        max_live=int(zero.get("stage3_max_live_parameters", 1e9)),
        max_reuse_distance=int(zero.get("stage3_max_reuse_distance", 1e9)),
        persistence_threshold=int(zero.get("stage3_param_persistence_threshold", 1e5)),
        hpz_ranks=int(zero.get("zero_hpz_partition_size", 1)),
        offloads_optimizer=_is_offloaded(zero, "offload_optimizer"),
        offloads_parameters=_is_offloaded(zero, "offload_param"),
    )


def _is_offloaded(zero: dict[str, Any], section: str) -> bool:
    device: str = zero.get(section, {}).get("device", "none")
    return device != "none"

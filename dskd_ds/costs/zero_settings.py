"""What memory and traffic depend on in a DeepSpeed file. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dskd_ds.spec.deepspeed_file import read_deepspeed_file


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
    quantizes: bool = False
    """Whether weights or gradients travel quantised (ZeRO++ qwZ, qgZ)."""
    offloads_optimizer: bool = False
    offloads_parameters: bool = False


def zero_settings(deepspeed: str) -> ZeroSettings:
    """Read a DeepSpeed file, or the shipped file that the path names.

    Raises InputError as `read_deepspeed_file` does.
    """
    zero: dict[str, Any] = read_deepspeed_file(deepspeed)["zero_optimization"]
    stage: int = zero["stage"]
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
        quantizes=bool(zero.get("zero_quantized_weights") or zero.get("zero_quantized_gradients")),
        offloads_optimizer=_is_offloaded(zero, "offload_optimizer"),
        offloads_parameters=_is_offloaded(zero, "offload_param"),
    )


def _is_offloaded(zero: dict[str, Any], section: str) -> bool:
    device: str = zero.get(section, {}).get("device", "none")
    return device != "none"

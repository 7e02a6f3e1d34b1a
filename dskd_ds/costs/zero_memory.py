"""Memory of weights, gradients and AdamW's state under each ZeRO stage of DeepSpeed 0.19.8.

Read off `deepspeed/runtime/zero/stage3.py`, `stage_1_and_2.py` and
`partitioned_param_coordinator.py`. Loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from dskd_ds.costs.shapes import ModelShape
from dskd_ds.costs.zero_settings import ZeroSettings


@dataclass(frozen=True)
class ZeroMemory:
    """Bytes of one rank."""

    fixed: dict[str, float]
    """Held from the second step on, by kind."""
    gathered: float
    """The most weights of other ranks that are gathered at a time."""
    reduction: float
    """What the reduction of a full bucket adds."""
    update: float
    """What the update adds."""
    host: dict[str, float]
    """In main memory beside a GPU, by kind."""


@dataclass(frozen=True)
class _Sizes:
    """Numbers (not bytes) of weights, and bytes per number."""

    all: int
    trained: int
    ranks: int
    low: int
    """Bytes per number of weights and gradients."""
    high: int
    """Bytes per number of master weights and moments."""
    on_gpu: bool

    @property
    def share(self) -> float:
        """Trained weights per rank."""
        return self.trained / self.ranks


def zero_memory(
    settings: ZeroSettings,
    shape: ModelShape,
    *,
    num_ranks: int,
    number_bytes: int,
    is_bf16_only: bool,
    trained_layers: int,
    trains_outer: bool,
    map_parameters: int,
    on_gpu: bool,
) -> ZeroMemory:
    """Return a rank's memory for weights, gradients and optimiser.

    is_bf16_only: AdamW works on bfloat16 weights and moments. trains_outer: embedding, head and
    all layers are trained; else the last `trained_layers`. map_parameters: trained in any case.
    """
    total = shape.num_parameters + map_parameters
    trained = total
    if not trains_outer:
        trained = trained_layers * shape.parameters_per_layer + map_parameters
    sizes = _Sizes(
        all=total,
        trained=trained,
        ranks=num_ranks,
        low=number_bytes,
        high=number_bytes if is_bf16_only else 4,
        on_gpu=on_gpu,
    )
    if settings.stage == 3:
        return _stage_3(settings, shape, sizes, trained_layers, trains_outer)
    if settings.stage == 0:
        return _stage_0(settings, sizes)
    return _stages_1_and_2(settings, sizes)


def _stage_3(
    settings: ZeroSettings,
    shape: ModelShape,
    sizes: _Sizes,
    trained_layers: int,
    trains_outer: bool,
) -> ZeroMemory:
    """Everything is partitioned; layers are gathered while they are needed."""
    low, high, share = sizes.low, sizes.high, sizes.share
    small = shape.num_layers * (shape.parameters_per_layer - shape.matmul_parameters_per_layer)
    weights = low * sizes.all / sizes.ranks
    if settings.hpz_ranks > 1:
        weights += low * sizes.all / min(settings.hpz_ranks, sizes.ranks)
    # Weights below the threshold (norms, biases) are kept whole as well.
    whole = low * small if shape.hidden_size <= settings.persistence_threshold else 0
    # Also where weights have the same format: DeepSpeed compares a device with its name, finds them
    # different, and makes a copy.
    optimizer = {
        "master weights": high * share,
        "optimiser": 2 * high * share,
        "gradients": low * share + (high * share if settings.offloads_optimizer else 0),
    }
    fixed = {"parameters": weights + whole, **optimizer}
    host: dict[str, float] = {}
    if sizes.on_gpu and settings.offloads_parameters:
        fixed["parameters"], host["parameters"] = whole, weights
    if sizes.on_gpu and settings.offloads_optimizer:
        host |= optimizer
        fixed = {"parameters": fixed["parameters"]}
    bucket, copies = _bucket(settings, sizes)
    fixed["gradient buckets"] = bucket
    largest = max(shape.embedding_parameters, shape.parameters_per_layer)
    sub_group = min(share, settings.sub_group + largest / sizes.ranks)
    return ZeroMemory(
        fixed=fixed,
        gathered=low * _gathered(settings, shape, sizes, trained_layers, trains_outer),
        reduction=copies,
        update=0.0 if settings.offloads_optimizer else high * sub_group,
        host=host,
    )


def _bucket(settings: ZeroSettings, sizes: _Sizes) -> tuple[float, float]:
    """Return the bytes of the bucket that gradients are reduced in, and of its copies.

    A GPU allocates the whole bucket. On a CPU only the pages that were written exist; a model with
    fewer weights than the bucket fills it once. Reduce-scatter copies it into another order.
    """
    filled = sizes.low * min(settings.reduce_bucket, sizes.trained)
    whole = sizes.low * settings.reduce_bucket if sizes.on_gpu else filled
    return float(whole), float(filled if settings.reduce_scatter else 0)


def _gathered(
    settings: ZeroSettings,
    shape: ModelShape,
    sizes: _Sizes,
    trained_layers: int,
    trains_outer: bool,
) -> float:
    """Return the most weights that are gathered at a time.

    ZeRO-3 keeps a layer gathered that is used again within `max_reuse_distance` weights: the last
    layers, from their forward to their backward pass. It fetches `prefetch_bucket` weights ahead. A
    single rank uses its own weights without a copy.
    """
    if sizes.ranks == 1 and not settings.offloads_parameters:
        return 0.0
    outer = shape.embedding_parameters + shape.head_parameters
    used_twice = sizes.all if trains_outer else trained_layers * shape.parameters_per_layer
    kept = min(used_twice, settings.max_reuse_distance / 2, settings.max_live)
    # The layer in use and the head, and what is fetched ahead of it.
    in_use = max(shape.parameters_per_layer, shape.embedding_parameters)
    ahead = min(settings.prefetch_bucket, shape.num_layers * shape.parameters_per_layer)
    if not trains_outer:
        kept += outer / (2 if shape.head_parameters else 1)
    return min(float(sizes.all), kept + in_use + ahead)


def _stages_1_and_2(settings: ZeroSettings, sizes: _Sizes) -> ZeroMemory:
    """Weights are whole on each rank; the optimiser, and with stage 2 the gradients, are not."""
    low, high, share = sizes.low, sizes.high, sizes.share
    # With stage 1 each rank keeps all gradients until they are reduced at the end of a step.
    gradients = low * (sizes.trained if settings.stage == 1 else share)
    fixed = {
        "parameters": float(low * sizes.all),
        "master weights": high * share,
        "optimiser": 2 * high * share,
        "gradients": float(gradients),
    }
    host: dict[str, float] = {}
    if sizes.on_gpu and settings.offloads_optimizer:
        for kind in ("master weights", "optimiser"):
            host[kind] = fixed.pop(kind)
        host["gradients"] = high * share
    filled = low * min(settings.reduce_bucket, sizes.trained)
    num_buffers = 2 if settings.overlap_comm and sizes.on_gpu else 1
    whole = low * settings.reduce_bucket * num_buffers if sizes.on_gpu else filled
    fixed["gradient buckets"] = float(whole)
    update = high * share + (low * share if low != high else 0)
    return ZeroMemory(fixed, gathered=0.0, reduction=float(filled), update=update, host=host)


def _stage_0(settings: ZeroSettings, sizes: _Sizes) -> ZeroMemory:
    """Nothing is partitioned. bfloat16 has float32 master weights and gradients beside it.

    On a GPU DeepSpeed's FP16_Optimizer serves bfloat16 too (runtime/fp16/fused_optimizer.py): its
    step makes float32 gradients and one flat copy of them while those in bfloat16 still exist, and
    frees them all. On a CPU FP16_UnfusedOptimizer makes no flat copy.
    """
    low, high = sizes.low, sizes.high
    has_master = low != high
    gradients, update = high + (low if has_master else 0), 0.0
    if has_master and sizes.on_gpu:
        gradients, update = low, 2.0 * high * sizes.trained
    fixed = {
        "parameters": float(low * sizes.all),
        "master weights": float(high * sizes.trained if has_master else 0),
        "optimiser": 2.0 * high * sizes.trained,
        "gradients": float(gradients * sizes.trained),
    }
    bucket = float(high * min(settings.reduce_bucket, sizes.trained))
    reduction = bucket if sizes.ranks > 1 else 0.0
    return ZeroMemory(fixed, gathered=0.0, reduction=reduction, update=update, host={})

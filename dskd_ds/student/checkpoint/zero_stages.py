"""Where DeepSpeed's optimisers keep weights and moments (docs/deepspeed.md, "Checkpoints").

DeepSpeed keeps them in flat buffers, and each ZeRO stage cuts these differently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import deepspeed.comm as dist
import torch
from torch import Tensor

from dskd_ds.errors import InputError
from dskd_ds.student.checkpoint.held_state import HeldSlice, HeldState
from dskd_ds.student.deepspeed_engine import Engine


def held_state(engine: Engine) -> HeldState:
    """Return what this rank holds of weights and moments.

    Raises InputError if DeepSpeed keeps them in a way that is not known here.
    """
    names = {
        id(parameter): name
        for name, parameter in engine.module.named_parameters()
        if parameter.requires_grad
    }
    optimizer = engine.optimizer
    if isinstance(optimizer, torch.optim.Optimizer):
        return _of_torch(optimizer, names)
    kind = type(optimizer).__name__
    read = READERS.get(kind)
    if read is None:
        raise InputError(
            f"[run] deepspeed: this file makes DeepSpeed use {kind}, whose state this program"
            " cannot write into a checkpoint.\n"
            "  use one of the files of ds_configs/, or a file with their keys."
        )
    return read(optimizer, names)


Names = dict[int, str]
"""id of a trained parameter -> its name in the module that DeepSpeed trains."""


def _of_torch(optimizer: torch.optim.Optimizer, names: Names) -> HeldState:
    """Stage 0 in float32: torch's optimiser updates the model's parameters themselves."""
    slices = [
        _whole(names[id(parameter)], parameter, parameter)
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    return HeldState(slices, optimizer, is_replicated=True, refresh_weights=_do_nothing)


def _whole(name: str, parameter: Tensor, buffer: Tensor, offset: int = 0) -> HeldSlice:
    """Return a slice that is the whole parameter."""
    count = parameter.numel()
    return HeldSlice(name=name, numel=count, start=0, count=count, buffer=buffer, offset=offset)


def _do_nothing() -> None:
    """The optimiser's weights are the model's."""


def _of_unfused(optimizer: Any, names: Names) -> HeldState:
    """Stage 0 in bfloat16 with torch's Adam: one float32 copy per parameter."""
    pairs = [
        (parameter, master)
        for parameters, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
        for parameter, master in zip(parameters, masters, strict=True)
    ]

    def refresh_weights() -> None:
        for parameter, master in pairs:
            parameter.data.copy_(master.data)

    slices = [_whole(names[id(parameter)], parameter, master) for parameter, master in pairs]
    return HeldState(slices, optimizer.optimizer, True, refresh_weights)


def _of_fused(optimizer: Any, names: Names) -> HeldState:
    """Stage 0 in bfloat16 with DeepSpeed's fused Adam: all parameters of a group in one buffer."""
    pairs: list[tuple[Tensor, HeldSlice]] = []
    groups = zip(optimizer.fp16_groups, optimizer.fp32_groups_flat, strict=True)
    for parameters, buffer in groups:
        offset = 0
        for parameter in parameters:
            held = _whole(names[id(parameter)], parameter, buffer, offset)
            pairs.append((parameter, held))
            offset += held.count

    def refresh_weights() -> None:
        for parameter, held in pairs:
            parameter.data.view(-1).copy_(held.of(held.buffer))

    slices = [held for _, held in pairs]
    return HeldState(slices, optimizer.optimizer, True, refresh_weights)


def _of_stage_1_and_2(optimizer: Any, names: Names) -> HeldState:
    """Each group is one buffer over all its parameters, cut into equal shares of the ranks."""
    groups = zip(optimizer.bit16_groups, optimizer.single_partition_of_fp32_groups, strict=True)
    return _of_shares(optimizer, groups, names)


def _of_bf16(optimizer: Any, names: Names) -> HeldState:
    """Stage 1 in bfloat16 with gradients accumulated in float32: cut as `_of_stage_1_and_2`."""
    groups = zip(optimizer.bf16_groups, optimizer.fp32_groups_flat_partition, strict=True)
    return _of_shares(optimizer, groups, names)


def _of_shares(optimizer: Any, groups: Iterator[tuple[Any, Tensor]], names: Names) -> HeldState:
    """Return the fragments that DeepSpeed has linked to this rank's share of each group."""
    slices = []
    for parameters, buffer in groups:
        for parameter in parameters:
            fragment = parameter._hp_mapping  # None if this rank's share has nothing of it
            if fragment is not None:
                slices.append(
                    HeldSlice(
                        name=names[id(parameter)],
                        numel=parameter.numel(),
                        start=fragment.lp_fragment_address.start,
                        count=fragment.lp_fragment_address.numel,
                        buffer=buffer,
                        offset=fragment.hp_fragment_address.start,
                    )
                )
    return HeldState(slices, optimizer.optimizer, False, optimizer.update_lp_params)


def _of_stage_3(optimizer: Any, names: Names) -> HeldState:
    """Each parameter is cut into equal shares of the ranks; the last ones may be padding."""
    rank = dist.get_rank()
    slices = []
    groups = zip(optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat, strict=True)
    for parameters, buffer in groups:
        offset = 0
        for parameter in parameters:
            share = int(parameter.partition_numel())
            start = min(rank * share, parameter.ds_numel)
            slices.append(
                HeldSlice(
                    name=names[id(parameter)],
                    numel=parameter.ds_numel,
                    start=start,
                    count=min(share, parameter.ds_numel - start),
                    buffer=buffer,
                    offset=offset,
                )
            )
            offset += share

    def refresh_weights() -> None:
        # What DeepSpeed does in and around a step: release all gathered weights, copy the
        # optimiser's weights to the model's shares, and gather the small ones again.
        optimizer.checkpoint_event_prologue()
        for index in range(len(optimizer.fp16_groups)):
            optimizer._reassign_or_swap_out_partitioned_parameters(index)
        optimizer.checkpoint_event_epilogue()

    return HeldState(slices, optimizer.optimizer, False, refresh_weights)


READERS: dict[str, Callable[[Any, Names], HeldState]] = {
    "DeepSpeedZeroOptimizer_Stage3": _of_stage_3,
    "DeepSpeedZeroOptimizer": _of_stage_1_and_2,
    "BF16_Optimizer": _of_bf16,
    "FP16_Optimizer": _of_fused,
    "FP16_UnfusedOptimizer": _of_unfused,
}
"""By the name of DeepSpeed's class. Subclasses keep their state elsewhere, so they are not here."""

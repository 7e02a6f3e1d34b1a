"""Builds the DeepSpeed configuration from the user's JSON file and the run spec.

A setting that both could contain is allowed in the run spec only.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from dskd_ds.errors import InputError
from dskd_ds.runtime.devices import resolve_dtype
from dskd_ds.spec import RunSpec
from dskd_ds.spec.deepspeed_file import read_deepspeed_file

OWNED_BY_SPEC = {
    "train_batch_size": "[train] global_batch_blocks",
    "train_micro_batch_size_per_gpu": "[train] micro_batch_blocks",
    "gradient_accumulation_steps": (
        "[train] global_batch_blocks, micro_batch_blocks and [topology] num_students"
    ),
    "gradient_clipping": "[optimizer] max_grad_norm",
    "optimizer": "[optimizer]",
    "scheduler": "[optimizer] warmup_fraction and min_lr_fraction",
    "bf16": "[student] dtype and precision",
    "fp16": "[student] dtype",
    "activation_checkpointing": "[student] activation_checkpointing",
    "compile": "[student] compile",
    "checkpoint": "[checkpoint]",
}
"""DeepSpeed key -> the keys of the run spec that set it."""

CUDA_ONLY = (
    "zero_quantized_weights",
    "zero_quantized_gradients",
    "zero_quantized_nontrainable_weights",
)
"""ZeRO++'s quantised communication: DeepSpeed has its kernels for CUDA only."""


def read_deepspeed_json(path: str) -> dict[str, Any]:
    """Return the content of the user's DeepSpeed file, or of the shipped file that `path` names.

    Raises InputError as `read_deepspeed_file` does, or if a key is set that the run spec owns.
    """
    content = read_deepspeed_file(path)
    for key, owner in OWNED_BY_SPEC.items():
        if key in content:
            raise InputError(
                f"{path}: {key} = {json.dumps(content[key])}, but the run spec sets this"
                f" in {owner}.\n"
                f"  remove {key} from {path}, and set it in the run spec."
            )
    return content


def deepspeed_config(spec: RunSpec) -> dict[str, Any]:
    """Return the complete configuration for `deepspeed.initialize`.

    Raises InputError if it cannot run on this machine, or contradicts the run spec.
    """
    config = read_deepspeed_json(spec.deepspeed)
    zero = config["zero_optimization"]
    dtype = resolve_dtype(spec.student.dtype)
    _check_groups(spec, zero)
    _check_precision(spec, zero)
    _check_checkpoints(spec, zero)
    _check_machine(spec, zero, dtype)
    config |= {
        "train_batch_size": spec.train.global_batch_blocks,
        "train_micro_batch_size_per_gpu": spec.train.micro_batch_blocks,
        "gradient_accumulation_steps": spec.num_accumulation_steps,
        "gradient_clipping": spec.optimizer.max_grad_norm,
        "bf16": _bf16(spec, dtype),
        "fp16": {"enabled": dtype == torch.float16, "loss_scale": 0},  # 0: dynamic
        "optimizer": {"type": "AdamW", "params": _adam(spec)},
    }
    if not torch.accelerator.is_available():
        # With offloading DeepSpeed would insist on its own CPU kernel, which takes a minute to
        # compile. Without a GPU, torch's Adam works on the same memory.
        config["zero_force_ds_cpu_optimizer"] = False
    return config


def _bf16(spec: RunSpec, dtype: torch.dtype) -> dict[str, bool]:
    """Return DeepSpeed's section for bfloat16, with or without float32 master weights."""
    section = {"enabled": dtype == torch.bfloat16}
    if spec.student.precision == "bf16":
        section |= {"bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}
    return section


def _adam(spec: RunSpec) -> dict[str, Any]:
    """Return AdamW's parameters, and without a GPU the choice of torch's implementation.

    On a GPU, DeepSpeed uses its own fused kernel, or its own CPU kernel for offloaded state.
    """
    optimizer = spec.optimizer
    params: dict[str, Any] = {
        "lr": spec.peak_lr,
        "betas": list(optimizer.betas),
        "eps": optimizer.eps,
        "weight_decay": optimizer.weight_decay,
    }
    if not torch.accelerator.is_available():
        # Fused makes one pass over the state; unfused took 3.8 times as long (10 million
        # parameters, one thread).
        params |= {"torch_adam": True, "fused": True}
    return params


def _check_groups(spec: RunSpec, zero: dict[str, Any]) -> None:
    """Raise InputError if ZeRO++ cannot split the students into groups of equal size."""
    group_size = zero.get("zero_hpz_partition_size", 1)
    num_students = spec.topology.num_students
    # A partition size above the number of students makes one group of all of them.
    if num_students % min(group_size, num_students):
        raise InputError(
            f"{spec.deepspeed}: zero_hpz_partition_size = {group_size}, but it does not divide"
            f" [topology] num_students = {num_students}.\n"
            "  set it to the number of GPUs per node that students use,"
            " and let students use whole nodes."
        )
    num_gpus = torch.accelerator.device_count()
    spans_nodes = 0 < num_gpus < num_students
    if zero.get("zero_quantized_gradients") and spans_nodes and num_students % num_gpus:
        raise InputError(
            f"{spec.deepspeed}: zero_quantized_gradients = true, but [topology] num_students ="
            f" {num_students} is not a multiple of the {num_gpus} GPUs of a node.\n"
            "  let students use whole nodes, or set zero_quantized_gradients to false."
        )


def _check_precision(spec: RunSpec, zero: dict[str, Any]) -> None:
    """Raise InputError if DeepSpeed cannot keep AdamW's state in bfloat16 with this file."""
    if spec.student.precision != "bf16":
        return
    mended = 'use another file of ds_configs/, or precision = "mixed".'
    if zero["stage"] == 0:
        raise InputError(
            f'[student] precision = "bf16", but {spec.deepspeed} has ZeRO stage 0, where DeepSpeed'
            f" keeps float32 master weights.\n  {mended}"
        )
    # DeepSpeed accepts offloaded bf16 moments only from its own CPU kernel, which this project
    # uses with a GPU only.
    device = zero.get("offload_optimizer", {}).get("device", "none")
    if device != "none" and not torch.accelerator.is_available():
        raise InputError(
            f'[student] precision = "bf16", but {spec.deepspeed} offloads the optimizer, and this'
            f" machine has no GPU.\n  {mended}"
        )


def _check_checkpoints(spec: RunSpec, zero: dict[str, Any]) -> None:
    """Raise InputError if DeepSpeed would keep weights or moments where no checkpoint is made of.

    student/checkpoint/zero_stages.py knows the places that remain.
    """
    for section in ("offload_optimizer", "offload_param"):
        if zero.get(section, {}).get("device") == "nvme":
            raise InputError(
                f'{spec.deepspeed}: zero_optimization.{section}.device = "nvme", but weights and'
                " moments on NVMe cannot be written into a checkpoint.\n"
                '  set it to "cpu", or remove the section.'
            )
    offload = zero.get("offload_optimizer", {})
    unknown = {
        "offload_optimizer.ratio": offload.get("ratio", 1) != 1,
        "offload_optimizer.super_offload": offload.get("super_offload", False),
        "zenflow": "zenflow" in zero,
        "mics_shard_size": zero.get("mics_shard_size", -1) > 0,
    }
    for key, is_set in unknown.items():
        if is_set:
            raise InputError(
                f"{spec.deepspeed}: zero_optimization.{key} is set, but checkpoints of weights and"
                " moments that are split in this way are not supported.\n"
                f"  remove {key} from the file."
            )


def _check_machine(spec: RunSpec, zero: dict[str, Any], dtype: torch.dtype) -> None:
    """Raise InputError if DeepSpeed lacks the number format or the communication here."""
    if dtype == torch.float16 and zero["stage"] == 0:
        raise InputError(
            f'[student] dtype = "float16", but {spec.deepspeed} has ZeRO stage 0, whose loss'
            " scaling is not supported.\n"
            '  use stage 1, 2 or 3, or dtype = "bfloat16".'
        )
    if torch.accelerator.is_available():
        return
    for key in CUDA_ONLY:
        if zero.get(key):
            raise InputError(
                f"{spec.deepspeed}: {key} = true, but this machine has no GPU, and DeepSpeed has"
                " the kernels for CUDA only.\n"
                f"  set {key} to false, or use another file of ds_configs/."
            )
    if dtype == torch.float16 and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        raise InputError(
            '[student] dtype = "float16", but this machine has no GPU, and its CPU has no fp16'
            " instructions.\n"
            '  set dtype = "float32", or "auto" to use the best format of the machine.'
        )

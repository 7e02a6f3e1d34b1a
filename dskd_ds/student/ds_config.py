"""The DeepSpeed configuration: the user's JSON, completed from the spec. What both could say, only the spec may."""

from __future__ import annotations

import json
from typing import Any

import torch

from dskd_ds.errors import InputError
from dskd_ds.runtime.devices import resolve_dtype
from dskd_ds.spec import RunSpec
from dskd_ds.spec.shipped import DEEPSPEED_CONFIGS, shipped_file

OWNED_BY_SPEC = {
    "train_batch_size": "[train] global_batch_blocks",
    "train_micro_batch_size_per_gpu": "[train] micro_batch_blocks",
    "gradient_accumulation_steps": "[train] global_batch_blocks, micro_batch_blocks and [topology] num_students",
    "gradient_clipping": "[optimizer] max_grad_norm",
    "optimizer": "[optimizer]",
    "scheduler": "[optimizer] warmup_fraction and min_lr_fraction",
    "bf16": "[student] dtype",
    "fp16": "[student] dtype",
    "activation_checkpointing": "[student] activation_checkpointing",
    "compile": "[student] compile",
}
"""DeepSpeed key -> where the spec says it."""

QUANTISED = (
    "zero_quantized_weights",
    "zero_quantized_gradients",
    "zero_quantized_nontrainable_weights",
)
"""ZeRO++'s quantised communication: DeepSpeed has kernels for it in CUDA only."""


def read_deepspeed_json(path: str) -> dict[str, Any]:
    """Return the content of the user's file, or of the shipped file that `path` names.

    Raises InputError if it is missing, is not JSON, or sets what the spec sets.
    """
    file = shipped_file(path, DEEPSPEED_CONFIGS, f'deepspeed = "{path}", but ')
    try:
        content = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: this is not JSON: {error}.") from None
    for key, owner in OWNED_BY_SPEC.items():
        if key in content:
            raise InputError(
                f"{path}: {key} = {json.dumps(content[key])}, but the run spec sets this in {owner}.\n"
                f"  remove {key} from {path}, and set it there."
            )
    stage = content.get("zero_optimization", {}).get("stage")
    if stage not in (0, 1, 2, 3):
        raise InputError(
            f"{path}: zero_optimization.stage = {stage}.\n  give a stage of 0 to 3, as ds_configs/zero3.json does."
        )
    result: dict[str, Any] = content
    return result


def deepspeed_config(spec: RunSpec) -> dict[str, Any]:
    """The complete configuration for `deepspeed.initialize`. Raises InputError for what cannot run here, or not with this spec."""
    config = read_deepspeed_json(spec.deepspeed)
    zero, dtype = config["zero_optimization"], resolve_dtype(spec.student.dtype)
    _check_groups(spec, zero)
    _check_machine(spec, zero, dtype)
    return config | {
        "train_batch_size": spec.train.global_batch_blocks,
        "train_micro_batch_size_per_gpu": spec.train.micro_batch_blocks,
        "gradient_accumulation_steps": spec.num_accumulation_steps,
        "gradient_clipping": spec.optimizer.max_grad_norm,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "fp16": {"enabled": dtype == torch.float16, "loss_scale": 0},  # 0: dynamic
        "optimizer": {"type": "AdamW", "params": _adam(spec)},
        # Offloading without a GPU: torch's Adam is as near to the data as DeepSpeed's own CPU kernel, which takes a minute to compile.
        **({} if torch.accelerator.is_available() else {"zero_force_ds_cpu_optimizer": False}),
    }


def _adam(spec: RunSpec) -> dict[str, Any]:
    """AdamW's settings. On a GPU DeepSpeed takes its own fused kernel, or its own CPU kernel where the state is offloaded."""
    optimizer = spec.optimizer
    params: dict[str, Any] = {
        "lr": spec.peak_lr,
        "betas": list(optimizer.betas),
        "eps": optimizer.eps,
        "weight_decay": optimizer.weight_decay,
    }
    if torch.accelerator.is_available():
        return params
    # On a CPU it is torch's, fused: one pass over the state. Unfused it took 3.8 times as long (10 million parameters, one thread).
    return params | {"torch_adam": True, "fused": True}


def _check_groups(spec: RunSpec, zero: dict[str, Any]) -> None:
    """ZeRO++ splits the students into groups of one size: they must come out even."""
    group, students = zero.get("zero_hpz_partition_size", 1), spec.topology.num_students
    if students % min(group, students):
        raise InputError(
            f"{spec.deepspeed}: zero_hpz_partition_size = {group}, but it does not divide [topology] num_students = "
            f"{students}.\n  set it to the GPUs that students have on each node, and give students whole nodes."
        )
    local = torch.accelerator.device_count()
    if zero.get("zero_quantized_gradients") and local and students > local and students % local:
        raise InputError(
            f"{spec.deepspeed}: zero_quantized_gradients = true, but [topology] num_students = {students} is no multiple "
            f"of the {local} GPUs of a node.\n  give students whole nodes, or set zero_quantized_gradients to false."
        )


def _check_machine(spec: RunSpec, zero: dict[str, Any], dtype: torch.dtype) -> None:
    """What DeepSpeed cannot do without a GPU, said before it starts."""
    if dtype == torch.float16 and zero["stage"] == 0:
        raise InputError(
            f'[student] dtype = "float16", but {spec.deepspeed} has ZeRO stage 0, which scales losses in another way.\n'
            '  use stage 1, 2 or 3, or dtype = "bfloat16".'
        )
    if torch.accelerator.is_available():
        return
    for key in QUANTISED:
        if zero.get(key):
            raise InputError(
                f"{spec.deepspeed}: {key} = true, but this machine has no GPU, and the kernels it needs are CUDA's.\n"
                f"  set {key} to false, or take another file of ds_configs/."
            )
    if dtype == torch.float16 and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        raise InputError(
            '[student] dtype = "float16", but this machine has no GPU, and its CPU no fp16 instructions.\n'
            '  set dtype = "float32" here ("auto" takes what the machine is good at).'
        )

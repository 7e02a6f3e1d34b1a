"""The DeepSpeed configuration: the user's JSON, completed from the spec. What both could say, only the spec may."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from dskd_ds.compute import resolve_dtype
from dskd_ds.errors import InputError
from dskd_ds.spec import RunSpec

OWNED_BY_SPEC = {
    "train_batch_size": "[train] global_batch_blocks",
    "train_micro_batch_size_per_gpu": "[train] micro_batch_blocks",
    "gradient_accumulation_steps": "[train] global_batch_blocks, micro_batch_blocks and [topology] num_students",
    "gradient_clipping": "[optimizer] max_grad_norm",
    "optimizer": "[optimizer]",
    "scheduler": "[optimizer] warmup_fraction and min_lr_fraction",
    "bf16": "[student] dtype",
    "fp16": "[student] dtype",
}
"""DeepSpeed key -> where the spec says it."""


def read_deepspeed_json(path: str) -> dict[str, Any]:
    """The user's file. Raises InputError if it is missing, no JSON, or sets what the spec sets."""
    try:
        content = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f'deepspeed = "{path}", but there is no such file.\n'
                         "  name a file of ds_configs/ (paths count from the folder you start in).") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: this is not JSON: {error}.") from None
    for key, owner in OWNED_BY_SPEC.items():
        if key in content:
            raise InputError(f"{path}: {key} = {json.dumps(content[key])}, but the run spec sets this in {owner}.\n"
                             f"  remove {key} from {path}, and set it there.")
    stage = content.get("zero_optimization", {}).get("stage")
    if stage not in (0, 1, 2, 3):
        raise InputError(f"{path}: zero_optimization.stage = {stage}.\n  give a stage of 0 to 3, as ds_configs/zero3.json does.")
    result: dict[str, Any] = content
    return result


def deepspeed_config(spec: RunSpec) -> dict[str, Any]:
    """The complete configuration for `deepspeed.initialize`."""
    config = read_deepspeed_json(spec.deepspeed)
    optimizer = spec.optimizer
    on_cpu = not torch.accelerator.is_available()
    return config | {
        "train_batch_size": spec.train.global_batch_blocks,
        "train_micro_batch_size_per_gpu": spec.train.micro_batch_blocks,
        "gradient_accumulation_steps": spec.num_accumulation_steps,
        "gradient_clipping": optimizer.max_grad_norm,
        "bf16": {"enabled": resolve_dtype(spec.student.dtype) == torch.bfloat16},
        "optimizer": {"type": "AdamW", "params": {
            "lr": spec.peak_lr, "betas": list(optimizer.betas), "eps": optimizer.eps, "weight_decay": optimizer.weight_decay,
            # DeepSpeed's own fused Adam is a CUDA kernel.
            **({"torch_adam": True} if on_cpu else {})}},
    }

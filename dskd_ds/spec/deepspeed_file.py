"""Reads a DeepSpeed JSON file, and checks what this project computes with."""

from __future__ import annotations

import json
import math
from typing import Any

from dskd_ds.errors import InputError
from dskd_ds.spec.shipped import DEEPSPEED_CONFIGS, shipped_file

NUMBERS = (
    "reduce_bucket_size",
    "sub_group_size",
    "stage3_prefetch_bucket_size",
    "stage3_max_live_parameters",
    "stage3_max_reuse_distance",
    "stage3_param_persistence_threshold",
    "zero_hpz_partition_size",
)
"""Entries of `zero_optimization` that the plan and the checks of a run compute with."""
SECTIONS = ("offload_optimizer", "offload_param")
"""Sections of `zero_optimization`; null is the same as leaving them out."""


def read_deepspeed_file(path: str) -> dict[str, Any]:
    """Return the content of a DeepSpeed file, or of the shipped file that `path` names.

    Entries with the value "auto" are left out, as DeepSpeed does: they stand for what the framework
    sets (Hugging Face), or for DeepSpeed's default.
    Raises InputError if the file is missing or not JSON, names no valid ZeRO stage, or has another
    value where a number is needed.
    """
    file = shipped_file(path, DEEPSPEED_CONFIGS, f'deepspeed = "{path}", but ')
    try:
        content: dict[str, Any] = _without_auto(json.loads(file.read_text(encoding="utf-8")))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: the file is not valid JSON: {error}.") from None
    zero = content.get("zero_optimization") if isinstance(content, dict) else None
    stage = zero.get("stage") if isinstance(zero, dict) else None
    # DeepSpeed takes a missing stage for 0, which partitions nothing.
    if not isinstance(zero, dict) or stage not in (0, 1, 2, 3):
        raise InputError(
            f"{path}: zero_optimization.stage = {stage} is invalid.\n"
            "  set it to 0, 1, 2 or 3, as ds_configs/zero3.json does."
        )
    for key in NUMBERS:
        if key in zero and not _is_number(zero[key]):
            raise InputError(
                f"{path}: zero_optimization.{key} = {json.dumps(zero[key])}, but it is not a"
                " number.\n"
                "  write a number, or remove the entry: then DeepSpeed's default holds."
            )
    for key in SECTIONS:
        section = zero.pop(key, None)
        if section is None:
            continue
        if not isinstance(section, dict):
            raise InputError(
                f"{path}: zero_optimization.{key} = {json.dumps(section)}, but it is not a"
                ' section.\n  write {"device": "cpu"}, or remove the entry: then nothing is'
                " offloaded."
            )
        zero[key] = section
    return content


def _without_auto(content: Any) -> Any:
    """Return the content without entries whose value is "auto", and sections of nothing else."""
    if not isinstance(content, dict):
        return content
    cleaned = {key: _without_auto(value) for key, value in content.items() if value != "auto"}
    return {key: value for key, value in cleaned.items() if value != {} or content[key] == {}}


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)

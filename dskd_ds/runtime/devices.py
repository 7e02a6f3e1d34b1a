"""Devices, number formats and threads, decided in one place."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from dskd_ds.spec.base import Dtype


def local_device() -> torch.device:
    """The accelerator of this rank (`LOCAL_RANK`), or the CPU where there is none."""
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None
    index = int(os.environ.get("LOCAL_RANK", "0")) % torch.accelerator.device_count()
    torch.accelerator.set_device_index(index)
    return torch.device(accelerator.type, index)


def resolve_dtype(dtype: Dtype) -> torch.dtype:
    """`auto` -> bfloat16 where the machine multiplies it natively, else float32."""
    if dtype == "auto":
        native = torch.accelerator.is_available() or _cpu_has_bfloat16()
        return torch.bfloat16 if native else torch.float32
    formats: dict[Dtype, torch.dtype] = {
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
        "float32": torch.float32,
    }
    return formats[dtype]


def _cpu_has_bfloat16() -> bool:
    """Without these instructions a bf16 product is emulated: 4.4 times slower than float32 on an AVX2 machine (measured)."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


Part = TypeVar("Part")


def pinned(part: Part) -> Part:
    """A tensor, or a dataclass of tensors, in page-locked memory, from which a copy to the accelerator does not wait.

    Without an accelerator, the same object.
    """
    if not torch.accelerator.is_available():
        return part
    if is_dataclass(part) and not isinstance(part, type):
        return replace(
            part, **{field.name: pinned(getattr(part, field.name)) for field in fields(part)}
        )
    pin: Callable[[], Part] | None = getattr(part, "pin_memory", None)
    return pin() if pin else part


def use_threads(num_threads: int) -> None:
    """Set torch's CPU threads; 0 leaves what OMP_NUM_THREADS says."""
    if num_threads:
        torch.set_num_threads(num_threads)


def give_back_memory() -> None:
    """Return what is free in the heap to the system; nothing where the C library is not glibc.

    Loading a model leaves holes of hundreds of megabytes, more or less of them by how its threads happened to run; with the settings of
    observe/console.py the heap would keep them.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

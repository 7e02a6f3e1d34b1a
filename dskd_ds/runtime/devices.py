"""Devices, number formats, threads and memory of a process."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

import torch

from dskd_ds.runtime.cpu_features import cpu_has_bfloat16
from dskd_ds.spec.base import Dtype

DTYPES: dict[Dtype, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


def local_device() -> torch.device:
    """Return this rank's accelerator (by `LOCAL_RANK`), or the CPU if there is none."""
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None
    index = int(os.environ.get("LOCAL_RANK", "0")) % torch.accelerator.device_count()
    torch.accelerator.set_device_index(index)
    return torch.device(accelerator.type, index)


def resolve_dtype(dtype: Dtype) -> torch.dtype:
    """Return torch's number format of a spec's `dtype`.

    `auto` is bfloat16 if the machine multiplies bfloat16 natively, else float32.
    """
    if dtype != "auto":
        return DTYPES[dtype]
    is_native = torch.accelerator.is_available() or cpu_has_bfloat16()
    return torch.bfloat16 if is_native else torch.float32


Tensors = TypeVar("Tensors")
"""A tensor, or a dataclass whose fields are tensors or such dataclasses."""


def pinned(tensors: Tensors) -> Tensors:
    """Return a copy in page-locked memory, from which copies to the accelerator are asynchronous.

    Without an accelerator it returns the same object. Values that cannot be pinned are kept.
    """
    if not torch.accelerator.is_available():
        return tensors
    if is_dataclass(tensors) and not isinstance(tensors, type):
        copies = {field.name: pinned(getattr(tensors, field.name)) for field in fields(tensors)}
        return replace(tensors, **copies)
    pin: Callable[[], Tensors] | None = getattr(tensors, "pin_memory", None)
    return pin() if pin else tensors


def use_threads(num_threads: int) -> None:
    """Set the number of torch's CPU threads; 0 keeps what OMP_NUM_THREADS says."""
    if num_threads:
        torch.set_num_threads(num_threads)


def give_back_memory() -> None:
    """Return the heap's free memory to the system; does nothing if the C library is not glibc.

    Loading a model leaves hundreds of megabytes of free memory in the heap, how much depends on
    the timing of its threads. The allocator settings in runtime/console.py would keep it there.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

"""Checks that every part of a reply goes through before anything is computed from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dskd_ds.link.messages import Array


def as_tensor(array: Array) -> Tensor:
    """Return a view where the memory is writable and aligned (ZeroMQ's mostly is), else a copy."""
    return torch.from_numpy(np.require(array, requirements=["A", "W", "C"]))


def check_shape(name: str, array: NDArray[Any], expected: tuple[int, ...]) -> None:
    """Raise ValueError if an array has another shape."""
    if array.shape != expected:
        raise ValueError(f"{name} has shape {array.shape}, expected {expected}")


def check_range(
    name: str, values: Tensor, least: float | None = None, most: float | None = None
) -> None:
    """No value may be NaN, below `least` or above `most`, which are the ends of what is finite if not given. Raises ValueError."""
    if not values.numel():
        return
    finite = torch.finfo(values.dtype)
    least, most = finite.min if least is None else least, finite.max if most is None else most
    low, high = (float(end) for end in torch.aminmax(values))  # one pass, and NaN comes through
    if not least <= low <= high <= most:
        raise ValueError(
            f"{name} has values from {low:g} to {high:g}, expected {least:g} to {most:g}"
        )

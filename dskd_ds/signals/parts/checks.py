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
    """Raise ValueError if a value is NaN, below `least` or above `most`.

    A limit that is not given is the end of the finite numbers.
    """
    if not values.numel():
        return
    finite = torch.finfo(values.dtype)
    least = finite.min if least is None else least
    most = finite.max if most is None else most
    low, high = (float(end) for end in torch.aminmax(values))  # one pass; NaN is not lost
    if not least <= low <= high <= most:
        raise ValueError(
            f"{name} has values from {low:g} to {high:g}, expected {least:g} to {most:g}"
        )

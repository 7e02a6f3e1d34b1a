"""Hidden states as bytes: the bits of bfloat16, or float8 (e4m3) with a bfloat16 scale for each block of 64 numbers.

Why blocks: SmolLM2's rows have outliers ten times their root mean square. One scale a row gave the teacher rebuilt from float8 states a
KL of 0.0057 nats to itself, 64 numbers a scale 0.0030 (1,024 Wikipedia positions); e4m3 rounds to 4 significant bits either way.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dskd_ds.link.messages import Array
from dskd_ds.signals.parts.checks import as_tensor, check_range, check_shape
from dskd_ds.signals.widths import BLOCK, hidden_width
from dskd_ds.spec.processes import HiddenFormat

LARGEST = torch.finfo(torch.float8_e4m3fn).max
"""448; what is larger becomes NaN."""


def read_states(
    arrays: dict[str, Array], num_rows: int, hidden_format: HiddenFormat, hidden_size: int
) -> Tensor:
    """Return the states [P, D] that the arrays hold. Raises ValueError if shapes or values do not fit."""
    num_bytes, num_scales = hidden_width(hidden_format, hidden_size)
    numbers, scales = arrays["hidden"], arrays["hidden_scales"]
    check_shape("hidden", numbers, (num_rows, num_bytes))
    check_shape("hidden_scales", scales, (num_rows, num_scales))
    as_bfloat16 = as_tensor(scales.view(np.int16)).view(torch.bfloat16)
    check_range("hidden_scales", as_bfloat16, least=0.0)
    hidden = unpack_hidden(numbers, scales, hidden_format)
    check_range("hidden", hidden)
    return hidden


def pack_hidden(hidden: Tensor, hidden_format: HiddenFormat) -> tuple[Array, Array]:
    """[P, D] floats -> bytes [P, D * 2 or 1] uint8 and the bits of the scales [P, blocks] uint16."""
    if hidden_format == "bfloat16":
        return _bytes(hidden.to(torch.bfloat16)), np.zeros((len(hidden), 0), np.uint16)
    blocks = _blocks(hidden.float())
    scales = blocks.abs().amax(dim=2) / LARGEST
    # Rounded up to bfloat16, so that no quotient exceeds LARGEST; a block of zeros keeps a scale that can be divided by.
    scales = (scales * (1 + 2.0**-7)).clamp_min(2.0**-120).to(torch.bfloat16)
    numbers = (
        (blocks / scales.float()[:, :, None])
        .to(torch.float8_e4m3fn)
        .flatten(1)[:, : hidden.shape[1]]
    )
    return _bytes(numbers), _bytes(scales).view(np.uint16)


def unpack_hidden(numbers: Array, scales: Array, hidden_format: HiddenFormat) -> Tensor:
    """[P, D * 2 or 1] uint8 and the bits of the scales [P, blocks] uint16 -> [P, D] bfloat16. The bits of bfloat16 are not copied."""
    if hidden_format == "bfloat16":
        return as_tensor(numbers.view(np.int16)).view(torch.bfloat16)
    values = as_tensor(numbers).view(torch.float8_e4m3fn).float()
    factors = as_tensor(scales.view(np.int16)).view(torch.bfloat16).float()
    return (
        (_blocks(values) * factors[:, :, None]).flatten(1)[:, : values.shape[1]].to(torch.bfloat16)
    )


def _blocks(values: Tensor) -> Tensor:
    """[P, D] -> [P, blocks, BLOCK], padded with zeros."""
    padded = torch.nn.functional.pad(values, (0, -values.shape[1] % BLOCK))
    return padded.view(len(values), padded.shape[1] // BLOCK, BLOCK)


def _bytes(values: Tensor) -> Array:
    return values.cpu().contiguous().view(torch.uint8).numpy()

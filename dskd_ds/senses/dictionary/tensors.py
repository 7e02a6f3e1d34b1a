"""A safetensors file that is filled through a mapping, so that its content need not fit into memory (`save_file` copies all of it)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NAMES = {torch.bfloat16: "BF16", torch.float32: "F32", torch.int64: "I64", torch.uint64: "U64"}


class TensorFile:
    """A new file of tensors whose shapes are known and whose content comes piece by piece."""

    def __init__(
        self, path: Path, shapes: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
    ) -> None:
        """Create the file, full of zeros. shapes: number format and shape of each tensor."""
        # The widest numbers first: then every tensor begins where its numbers may.
        ordered = sorted(shapes.items(), key=lambda item: (-item[1][0].itemsize, item[0]))
        entries: dict[str, Any] = {}
        end = 0
        for name, (dtype, shape) in ordered:
            start, end = end, end + math.prod(shape) * dtype.itemsize
            entries[name] = {
                "dtype": NAMES[dtype],
                "shape": list(shape),
                "data_offsets": [start, end],
            }
        header = json.dumps(entries, separators=(",", ":")).encode()
        header += b" " * (-len(header) % 8)
        self._mapped: NDArray[np.uint8] = np.memmap(
            path, np.uint8, "w+", shape=(8 + len(header) + end,)
        )
        self._mapped[: 8 + len(header)] = np.frombuffer(
            len(header).to_bytes(8, "little") + header, np.uint8
        )
        body = torch.from_numpy(self._mapped[8 + len(header) :])
        self._tensors = {
            name: body[slice(*entries[name]["data_offsets"])].view(dtype).view(shape)
            for name, (dtype, shape) in ordered
        }

    def __getitem__(self, name: str) -> Tensor:
        """One of the tensors, to be written to in place."""
        return self._tensors[name]

    def close(self) -> None:
        """Hand everything to the file."""
        self._tensors = {}
        self._mapped.flush()  # type: ignore[attr-defined]  # it is a memmap

"""A safetensors file that is filled through a memory mapping.

Its content need not fit into memory; safetensors' `save_file` copies all of it.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NAMES = {torch.bfloat16: "BF16", torch.float32: "F32", torch.int64: "I64", torch.uint64: "U64"}


class TensorFile:
    """A new file of tensors whose shapes are known and whose content is written piece by piece."""

    def __init__(
        self, path: Path, shapes: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
    ) -> None:
        """Create the file, full of zeros. shapes: dtype and shape of each tensor.

        Raises OSError if the disk has no room for all of it.
        """
        # The widest dtype first: then every tensor starts at a multiple of its item size.
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
        prefix = len(header).to_bytes(8, "little") + header
        size = len(prefix) + end
        _allocate(path, size)
        self._mapped: NDArray[np.uint8] = np.memmap(path, np.uint8, "r+", shape=(size,))
        self._mapped[: len(prefix)] = np.frombuffer(prefix, np.uint8)
        body = torch.from_numpy(self._mapped[len(prefix) :])
        self._tensors: dict[str, Tensor] = {}
        for name, (dtype, shape) in ordered:
            content = body[slice(*entries[name]["data_offsets"])]
            self._tensors[name] = content.view(dtype).view(shape)

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor of the file. Writing to it in place writes to the file."""
        return self._tensors[name]

    def close(self) -> None:
        """Write everything to the file, and forget the tensors."""
        self._tensors = {}
        self._mapped.flush()  # type: ignore[attr-defined]  # it is a memmap


def _allocate(path: Path, size: int) -> None:
    """Create a file of zeros whose blocks are on the disk.

    Where a mapped file has no blocks yet and the disk is full, writing to it kills the process.
    """
    with path.open("w+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            # Not every file system can. The file then gets its blocks as it is written.
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
            file.truncate(size)

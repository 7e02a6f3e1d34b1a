"""The tensors of a checkpoint: slices of parameters by name and range, in safetensors files.

Each rank writes the slices that it holds. A reader asks for any range of a parameter and gets it
from whichever files contain it, so the number of ranks that read need not be the number that wrote.
Nothing here uses DeepSpeed or torch.distributed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dskd_ds.errors import InputError

MASTER = "master"
"""The kind of tensor that holds the weights, in the optimiser's number format."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""The kinds of tensors that hold Adam's moments, by their names in torch."""
FILE_BYTES = 1 << 30
"""A file is closed once it holds at least this much, which bounds the memory of a writing rank."""
SUFFIX = ".safetensors"
"""Ending of the names of these files."""
RANGES = "ranges"
"""Key of a file's metadata: JSON of parameter name -> [first element, elements of the whole]."""


@dataclass(frozen=True)
class StoredSlice:
    """A range of a flattened parameter: its weights, and Adam's moments if there are any."""

    name: str
    start: int
    """Index of the first element in the flattened parameter."""
    numel: int
    """Number of elements of the whole parameter."""
    tensors: dict[str, Tensor]
    """By kind; each has the elements of the range."""

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def to_host(self) -> StoredSlice:
        """Return a copy in host memory."""
        copies = {kind: tensor.to("cpu", copy=True) for kind, tensor in self.tensors.items()}
        return StoredSlice(self.name, self.start, self.numel, copies)


def write_slices(folder: Path, prefix: str, slices: Iterable[StoredSlice]) -> list[Path]:
    """Write the slices to files `PREFIX-000.safetensors`, ... in `folder`, and return their paths.

    Raises OSError or SafetensorError if that fails.
    """
    paths: list[Path] = []
    for index, group in enumerate(_groups(slices)):
        path = folder / f"{prefix}-{index:03d}{SUFFIX}"
        tensors: dict[str, Tensor] = {}
        for piece in group:
            for kind, tensor in piece.tensors.items():
                tensors[f"{kind}/{piece.name}"] = tensor.detach().cpu()
        ranges = {piece.name: [piece.start, piece.numel] for piece in group}
        save_file(tensors, path, metadata={RANGES: json.dumps(ranges)})
        paths.append(path)
    return paths


def _groups(slices: Iterable[StoredSlice]) -> Iterator[list[StoredSlice]]:
    """Yield the slices of one file after the other."""
    group: list[StoredSlice] = []
    num_bytes = 0
    for piece in slices:
        group.append(piece)
        num_bytes += piece.nbytes
        if num_bytes >= FILE_BYTES:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group


@dataclass(frozen=True)
class _Piece:
    """Where a range of a parameter is stored."""

    start: int
    count: int
    path: Path


class SavedSlices(AbstractContextManager["SavedSlices"]):
    """The parameters that a checkpoint's files contain. As a context manager it closes them."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Read the headers of these files. Their digests must have been compared before.

        Raises InputError if a file is not a file of slices, OSError if it cannot be opened.
        """
        self._files: dict[Path, Any] = {}
        self._pieces: dict[str, list[_Piece]] = {}
        self.numel: dict[str, int] = {}
        """Parameter name -> number of elements of the whole parameter."""
        self._with_moments: set[str] = set()
        for path in paths:
            try:
                self._read_header(path)
            except (SafetensorError, ValueError, KeyError, TypeError) as error:
                self.close()
                raise InputError(f"{path}: not a file of a checkpoint: {error}.") from None

    def _read_header(self, path: Path) -> None:
        file: Any = safe_open(path, framework="pt")
        self._files[path] = file
        keys = set(file.keys())
        ranges = json.loads(file.metadata()[RANGES])
        for name, (start, numel) in ranges.items():
            if f"{MOMENTS[0]}/{name}" in keys:
                self._with_moments.add(name)
            (count,) = file.get_slice(f"{MASTER}/{name}").get_shape()
            if self.numel.setdefault(name, numel) != numel:
                raise ValueError(f"{name} has {numel} elements here, {self.numel[name]} elsewhere")
            self._pieces.setdefault(name, []).append(_Piece(start, count, path))

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self.close()

    def close(self) -> None:
        """Close the files; tensors that were read stay valid."""
        self._files.clear()

    def has_moments(self, name: str) -> bool:
        """Whether Adam had updated a parameter when the checkpoint was saved."""
        return name in self._with_moments

    def read(self, name: str, kind: str, start: int, count: int) -> Tensor:
        """Return the elements [start, start + count) of a flattened parameter.

        Raises InputError if the files do not contain each of them exactly once.
        """
        found: Tensor | None = None
        num_found = 0
        for piece in self._pieces.get(name, []):
            first = max(start, piece.start)
            last = min(start + count, piece.start + piece.count)
            if first >= last:
                continue
            part = self._tensor(piece, name, kind)[first - piece.start : last - piece.start]
            if found is None:
                found = torch.empty(count, dtype=part.dtype)
            found[first - start : last - start] = part
            num_found += last - first
        if found is None or num_found != count:
            raise InputError(
                f"{self._folder()}: its files contain {num_found} of the {count} elements from"
                f" {start} of {kind} of {name}.\n"
                "  the checkpoint was not written by this program; resume from another one."
            )
        return found

    def read_whole(self, name: str, kind: str) -> Tensor:
        """Return a whole flattened parameter. Raises InputError if it is incomplete."""
        return self.read(name, kind, 0, self.numel[name])

    def _tensor(self, piece: _Piece, name: str, kind: str) -> Any:
        key = f"{kind}/{name}"
        try:
            return self._files[piece.path].get_slice(key)
        except SafetensorError:
            raise InputError(f"{piece.path}: it has no tensor {key}.") from None

    def _folder(self) -> str:
        folders = sorted({str(path.parent) for path in self._files})
        return ", ".join(folders)

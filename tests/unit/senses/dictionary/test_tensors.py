"""A file written through a mapping is a safetensors file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from dskd_ds.senses.dictionary.tensors import TensorFile


@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=4), seed=st.integers(0, 100))
@settings(max_examples=30)
def test_safetensors_reads_a_tensor_file(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], seed: int
) -> None:
    path = tmp_path_factory.mktemp("t") / "tensors"
    generator = torch.Generator().manual_seed(seed)
    dtypes = (torch.bfloat16, torch.int64, torch.float32, torch.uint64)
    tensors = {
        f"t{i}": torch.randint(0, 99, (size, 3), generator=generator).to(dtypes[i])
        for i, size in enumerate(sizes)
    }
    shapes = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    file = TensorFile(path, shapes)
    for name, tensor in tensors.items():
        file[name].copy_(tensor)
    file.close()
    read = load_file(path)
    assert set(read) == set(tensors)
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


SHAPES = {"senses": (torch.bfloat16, (400, 100))}


def test_a_tensor_file_has_its_blocks_before_anything_is_written(tmp_path: Path) -> None:
    """A process that writes to a mapped file without blocks is killed when the disk is full."""
    TensorFile(tmp_path / "tensors", SHAPES)
    found = (tmp_path / "tensors").stat()
    assert found.st_blocks * 512 >= found.st_size > 80_000


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSPC])
def test_a_file_system_may_not_know_how_to_reserve_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", fail)
    if number == errno.ENOSPC:
        with pytest.raises(OSError, match="No space left"):
            TensorFile(tmp_path / "tensors", SHAPES)
        return
    file = TensorFile(tmp_path / "tensors", SHAPES)
    file["senses"].fill_(2.0)
    file.close()
    assert torch.equal(
        load_file(tmp_path / "tensors")["senses"].unique(), torch.tensor([2.0]).to(torch.bfloat16)
    )

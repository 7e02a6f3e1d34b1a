"""A file written through a mapping is a safetensors file."""

from __future__ import annotations

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

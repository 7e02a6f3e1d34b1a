"""Configurations are read as plain data: from folders, GGUF headers and converted copies."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from dskd_ds.costs.shapes import model_shape
from dskd_ds.errors import InputError
from dskd_ds.models.config_file import read_config_file


def write_gguf(path: Path, with_head: bool) -> None:
    """Write a GGUF file with the header of a tiny Llama, and its embedding."""
    writer = GGUFWriter(path, "llama")
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(160)
    writer.add_block_count(3)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_tensor("token_embd.weight", np.zeros((300, 64), dtype=np.float32))
    if with_head:
        writer.add_tensor("output.weight", np.zeros((300, 64), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("with_head", [True, False])
def test_a_gguf_header_gives_the_sizes(
    tmp_path: Path, with_head: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSKD_HOME", str(tmp_path / "home"))
    file = tmp_path / "tiny.gguf"
    write_gguf(file, with_head)
    shape = model_shape(read_config_file(str(file)))
    assert (shape.num_layers, shape.vocab_size, shape.kv_size) == (3, 300, 32)
    assert shape.tied is not with_head


def test_the_converted_copy_of_a_gguf_file_is_read_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it is older than the file, and so belongs to another one of this name."""
    monkeypatch.setenv("DSKD_HOME", str(tmp_path))
    file = tmp_path / "tiny.gguf"
    write_gguf(file, with_head=True)
    copy = tmp_path / "models/tiny-0123456789ab"
    copy.mkdir(parents=True)
    (copy / "config.json").write_text(json.dumps({"hidden_size": 1}))
    assert read_config_file(str(file)) == {"hidden_size": 1}
    os.utime(copy / "config.json", (0, 0))
    assert read_config_file(str(file))["hidden_size"] == 64


def test_what_is_no_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSKD_HOME", str(tmp_path))
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(InputError, match="header cannot be read"):
        read_config_file(str(tmp_path / "empty.gguf"))
    with pytest.raises(InputError, match="configuration cannot be read"):
        read_config_file(str(tmp_path))

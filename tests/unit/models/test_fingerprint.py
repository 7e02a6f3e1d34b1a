"""A model's fingerprint: equal for copies, different if any layer differs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dskd_ds.models.resolve import model_fingerprint

MB = 1 << 20


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(24 * MB))
    return folder


def test_a_copy_has_the_same_fingerprint(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "copy"
    shutil.copytree(model, copy)
    assert model_fingerprint(str(copy)) == model_fingerprint(str(model))


@pytest.mark.parametrize("start", [*range(0, 24 * MB, 3 * MB), 23 * MB])
def test_a_change_in_any_layer_changes_the_fingerprint(model: Path, start: int) -> None:
    """1 MB of 24 is changed: the share of one layer in a model of 24 layers."""
    before = model_fingerprint(str(model))
    with (model / "model.safetensors").open("r+b") as file:
        file.seek(start)
        file.write(b"\1" * MB)
    assert model_fingerprint(str(model)) != before


@pytest.mark.parametrize("size", [0, 1, 70_000, 4 * MB - 1])
def test_small_files_are_read_whole(model: Path, size: int) -> None:
    path = model / "model.safetensors"
    path.write_bytes(bytes(size))
    before = model_fingerprint(str(model))
    offsets = {size // 2, size - 1} if size else set()
    for offset in offsets:
        path.write_bytes(bytes(offset) + b"\1" + bytes(size - offset - 1))
        assert model_fingerprint(str(model)) != before
    path.write_bytes(bytes(size + 1))
    assert model_fingerprint(str(model)) != before

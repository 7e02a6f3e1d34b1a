"""The digest of all weights: one byte changes it, and it is computed once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from dskd_ds.models import weights_digest as module
from dskd_ds.models.weights_digest import DIGEST_FILE, weights_digest

SIZE = 6 << 20


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSKD_HOME", str(tmp_path / "home"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for shard in range(2):
        (folder / f"model-{shard}.safetensors").write_bytes(bytes(SIZE))
    return folder


def change_one_byte(path: Path, offset: int) -> None:
    """Also restores the time of change, as some programs do."""
    state = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\1")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize("offset", [0, 123_457, SIZE // 2 + 1, SIZE - 1])
def test_one_byte_changes_the_digest(model: Path, offset: int) -> None:
    before = weights_digest(model)
    change_one_byte(model / "model-1.safetensors", offset)
    assert weights_digest(model) != before


def test_copies_have_the_same_digest_and_another_name_another(model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    assert weights_digest(copy) == weights_digest(model)
    (copy / "model-1.safetensors").rename(copy / "other.safetensors")
    assert weights_digest(copy) != weights_digest(model)


def test_files_are_hashed_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = weights_digest(model)
    assert (model / DIGEST_FILE).is_file()
    monkeypatch.setattr(module, "file_sha256", None)  # calling it would raise
    assert weights_digest(model) == before
    (model / DIGEST_FILE).write_text("{half a fi")
    with pytest.raises(TypeError):
        weights_digest(model)


def test_the_digest_of_a_folder_that_cannot_be_written_is_kept_at_home(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, value: object) -> None:
        if path.parent == model:
            raise PermissionError(path)
        write(path, value)

    write = module.write_json
    monkeypatch.setattr(module, "write_json", refuse)
    before = weights_digest(model)
    assert not (model / DIGEST_FILE).exists()
    assert list((tmp_path / "home" / "digests").glob("*.json"))
    monkeypatch.setattr(module, "file_sha256", None)
    assert weights_digest(model) == before

"""Files and folders appear whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dskd_ds.files.atomic import atomic_file, atomic_folder, write_bytes, write_json, write_text


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_is_replaced(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "name.of.three.parts"
    write_text(path, "first", sync)
    write_text(path, "second é", sync)
    assert path.read_bytes() == "second é".encode()
    write_bytes(path, b"\x00\xff", sync)
    assert path.read_bytes() == b"\x00\xff"
    write_json(path, {"a": [1]}, sync, indent=1)
    assert path.read_text() == json.dumps({"a": [1]}, indent=1)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_whose_writing_fails_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "before")

    def fail_halfway() -> None:
        with atomic_file(path) as partial:
            partial.write_text("half of it")
            assert path.read_text() == "before"
            raise ValueError("halfway")

    with pytest.raises(ValueError, match="halfway"):
        fail_halfway()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_with_all_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "above" / "model-1.7B"
    (tmp_path / "above" / "model-1.7B.partial").mkdir(parents=True)
    (tmp_path / "above" / "model-1.7B.partial" / "of a killed process").touch()
    for name in ("first", "second"):
        with atomic_folder(folder) as partial:
            (partial / name).touch()
        assert [path.name for path in folder.iterdir()] == [name]
    assert list(folder.parent.iterdir()) == [folder]


def test_a_folder_whose_filling_fails_stays_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with atomic_folder(folder) as partial:
        (partial / "before").touch()

    def fail_halfway() -> None:
        with atomic_folder(folder) as partial:
            (partial / "after").touch()
            raise ValueError("halfway")

    with pytest.raises(ValueError, match="halfway"):
        fail_halfway()
    assert [path.name for path in folder.iterdir()] == ["before"]
    assert list(tmp_path.iterdir()) == [folder]

"""Wrong output paths are the user's to change: one message instead of a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_ds.errors import InputError
from dskd_ds.files.output import check_can_write, writing_output


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    output = file / "picture.png"
    with (
        pytest.raises(
            InputError, match=rf"--output {output}: .*: {file} is not a folder\.\n  name"
        ),
        writing_output(output),
    ):
        output.parent.mkdir(exist_ok=True)


def test_the_reason_is_the_systems(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=rf"^--picture {tmp_path}: .* written: Is a directory\."),
        writing_output(tmp_path, "--picture"),
    ):
        tmp_path.write_text("text")


def test_other_errors_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="of the content"), writing_output(tmp_path / "file"):
        raise ValueError("of the content")


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("folder", "Is a directory"),
        ("missing/file", "No such file or directory"),
        ("file/inside", "Not a directory"),
        ("/proc/file", "No such file or directory"),  # a file system that takes no files
    ],
)
def test_a_path_is_refused_before_long_work(tmp_path: Path, output: str, reason: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    path = tmp_path / output
    with pytest.raises(InputError, match=rf"^--output {path}: it cannot be written: {reason}\."):
        check_can_write(path)


def test_the_check_of_a_path_leaves_nothing_behind(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("content")
    check_can_write(kept)
    check_can_write(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert kept.read_text() == "content"

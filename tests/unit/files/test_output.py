"""Wrong output paths are the user's to change: one message instead of a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_ds.errors import InputError
from dskd_ds.files.output import writing_output


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

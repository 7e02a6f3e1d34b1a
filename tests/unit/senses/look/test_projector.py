"""`dskd senses projector`: the files are what TensorBoard reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dskd_ds.errors import InputError
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.look.projector import COLUMNS, export_projector


def test_tensorboard_reads_the_files(
    dictionary: SenseDictionary, tokenizer: Any, tmp_path: Path
) -> None:
    from google.protobuf import text_format
    from tensorboard.plugins.projector import ProjectorConfig
    from tensorboard.plugins.projector.projector_plugin import _read_tensor_tsv_file

    folder = tmp_path / "out"
    assert export_projector(dictionary, tokenizer, folder, 5) == 5
    text = (folder / "projector_config.pbtxt").read_text()
    (embedding,) = text_format.Parse(text, ProjectorConfig()).embeddings
    tensor = _read_tensor_tsv_file(str(folder / embedding.tensor_path))
    metadata = (folder / embedding.metadata_path).read_text().splitlines()
    header, *rows = [line.split("\t") for line in metadata]
    assert tensor.shape == (5, 32)
    assert tuple(header) == COLUMNS
    assert [row[0] for row in rows] == ["bank 1", "glad 1", "bank 2", "bank 3", "river 1"]
    assert all(len(row) == len(COLUMNS) for row in rows)
    assert rows[0][3:5] == ["50", "0.500"]
    np.testing.assert_array_equal(tensor[0, :2], (9, 0))


def test_a_folder_with_other_files_is_refused(
    dictionary: SenseDictionary, tokenizer: Any, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="contains other files"):
        export_projector(dictionary, tokenizer, tmp_path, 5)

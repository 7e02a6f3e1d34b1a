"""Copies a model with some of its weights replaced, file by file."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from dskd_ds.models.cut import weight_files
from dskd_ds.models.named import NamedModel
from dskd_ds.models.resolve import copy_generation

INDEX_FILE = "model.safetensors.index.json"


def copy_with(model: NamedModel, weights: Mapping[str, Tensor], target: Path) -> None:
    """Copy a model into the folder `target`, with other values of some weights.

    model: a folder. weights: by their names in its files; all of them must be there. One file is in
    memory at a time.
    """
    from safetensors.torch import load_file, save_file

    model.config.save_pretrained(target)
    model.tokenizer.save_pretrained(target)
    copy_generation(model.path, target)
    missing = set(weights)
    for path in weight_files(model.path):
        tensors = load_file(path)
        replaced = set(tensors) & set(weights)
        missing -= replaced
        tensors |= {name: weights[name].contiguous() for name in replaced}
        save_file(tensors, target / path.name, metadata={"format": "pt"})
    assert not missing, f"the files of {model.path} lack {sorted(missing)[:5]}"
    index = Path(model.path) / INDEX_FILE
    if index.is_file():
        shutil.copyfile(index, target / INDEX_FILE)

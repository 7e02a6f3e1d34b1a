"""Files that lack some of a model's weights are refused; tied weights may be absent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from dskd_ds.errors import InputError
from dskd_ds.models.frozen import load_frozen
from dskd_ds.models.named import NamedModel
from tests.conftest import TinyWorld


def changed(tiny: TinyWorld, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the tiny teacher after `change` of its weights."""
    shutil.copytree(tiny.folder / "teacher", folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_model_that_lacks_weights_is_refused(tiny: TinyWorld, tmp_path: Path) -> None:
    def remove(weights: dict[str, Any]) -> None:
        for name in [name for name in weights if ".layers.3.mlp" in name]:
            del weights[name]
        del weights["model.layers.1.mlp.up_proj.weight"]

    folder = changed(tiny, tmp_path / "teacher", remove)
    with pytest.raises(
        InputError,
        match=r'\[teacher\] model = ".*teacher": its files do not hold all weights of its'
        r" configuration: model.layers.1.mlp.up_proj.weight, model.layers.3.mlp.down_proj.weight,"
        r" model.layers.3.mlp.gate_proj.weight and 1 more\.",
    ):
        load_frozen(NamedModel(str(folder)))


def test_a_weight_of_another_shape_is_refused(tiny: TinyWorld, tmp_path: Path) -> None:
    def shorten(weights: dict[str, Any]) -> None:
        weights["model.norm.weight"] = weights["model.norm.weight"][:-1].clone()

    folder = changed(tiny, tmp_path / "teacher", shorten)
    size = json.loads((folder / "config.json").read_text())["hidden_size"]
    with pytest.raises(InputError, match=rf"model.norm.weight \(\[{size - 1}\] instead of"):
        NamedModel(str(folder)).load()


def test_a_tied_head_may_be_absent_or_present(tiny: TinyWorld, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny.folder / "teacher")
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path / "tied")
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")
    loaded = NamedModel(str(tmp_path / "tied")).load()
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight

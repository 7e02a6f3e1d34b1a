"""What a model is made with where its configuration has no entry. Loads no torch.

A config.json may list only what differs from the defaults of its class in transformers: that of
Gemma 3 does, and those of older models leave out `tie_word_embeddings = true`. The classes
themselves load torch, so class_defaults.toml holds their defaults; a test compares the two.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

OTHER_NAMES = {
    "n_embd": "hidden_size",
    "d_model": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_layers": "num_hidden_layers",
    "num_layers": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_heads": "num_attention_heads",
    "n_inner": "intermediate_size",
    "ffn_dim": "intermediate_size",
    "n_positions": "max_position_embeddings",
}
"""Names that entries have in some types of models, and their usual names."""


def with_defaults(given: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the entries of a configuration by their usual names, with the defaults of its class.

    An entry that is None stays None, as in transformers. kind: the type of model.
    """
    renamed = {OTHER_NAMES[key]: value for key, value in given.items() if key in OTHER_NAMES}
    return {**class_defaults(kind), **renamed, **given}


def class_defaults(kind: str) -> dict[str, Any]:
    """Return the defaults of a type of model without those that are None or false."""
    return _table().get("gemma3_text" if kind == "gemma3" else kind, {})


@cache
def _table() -> dict[str, dict[str, Any]]:
    file = resources.files("dskd_ds.costs").joinpath("class_defaults.toml")
    return tomllib.loads(file.read_text(encoding="utf-8"))

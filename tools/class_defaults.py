"""Writes dskd_ds/costs/class_defaults.toml from the configuration classes of transformers.

    python tools/class_defaults.py

`tests/unit/costs/test_class_defaults.py` fails if the table differs from the installed classes.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import tomli_w
from transformers import CONFIG_MAPPING

from dskd_ds.costs.class_defaults import OTHER_NAMES
from dskd_ds.costs.shapes import GATED_MLP, TWO_MATRIX_MLP

TABLE = Path(__file__).parents[1] / "dskd_ds/costs/class_defaults.toml"
HEAD = """\
# What a model is made with where its config.json has no entry: defaults of transformers' classes.
# None and false are left out. Written by `python tools/class_defaults.py`.

"""
ENTRIES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "expansion_ratio",
    "vocab_size",
    "max_position_embeddings",
    "tie_word_embeddings",
    "attention_bias",
    "use_qkv_bias",
    "mlp_bias",
    "use_bias",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "norm_epsilon",
)
"""Entries that costs/shapes.py reads."""


def class_defaults() -> dict[str, dict[str, Any]]:
    """Return the defaults of each type of model that has a formula."""
    # gemma3 is the class around a text model, which has its own type.
    kinds = sorted((GATED_MLP | TWO_MATRIX_MLP) - {"gemma3"})
    return {kind: _defaults(kind) for kind in kinds}


def _defaults(kind: str) -> dict[str, Any]:
    fields = dataclasses.fields(CONFIG_MAPPING[kind])
    given = {OTHER_NAMES.get(field.name, field.name): field.default for field in fields}
    # Not of an instance: that has already derived what is None from other entries.
    return {entry: given[entry] for entry in ENTRIES if given.get(entry) not in (None, False)}


if __name__ == "__main__":
    TABLE.write_text(HEAD + tomli_w.dumps(class_defaults()))

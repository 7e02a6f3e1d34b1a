"""Entries that a config.json leaves out are those with which transformers makes the model."""

from __future__ import annotations

import runpy
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from dskd_ds.costs.class_defaults import class_defaults
from dskd_ds.costs.shapes import GATED_MLP, TWO_MATRIX_MLP, model_shape

KINDS = sorted((GATED_MLP | TWO_MATRIX_MLP) - {"gemma3"})
GEMMA_3_4B: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    },
}
"""As the hub has it: no heads, no vocabulary, nothing about the head."""


def test_the_table_is_that_of_the_installed_classes() -> None:
    wanted = runpy.run_path("tools/class_defaults.py")["class_defaults"]()
    assert {kind: class_defaults(kind) for kind in KINDS} == wanted, (
        "run python tools/class_defaults.py"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_without_entries_is_that_of_its_class(kind: str) -> None:
    given = {{"gpt2": "n_layer", "mpt": "n_layers"}.get(kind, "num_hidden_layers"): 1}
    if kind == "nemotron":  # its class makes no model without them
        given["num_key_value_heads"] = 8
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **given))
    shape = model_shape({"model_type": kind, **given}, kind)
    assert shape.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert shape.tied == (embedding.weight is head.weight)


def test_the_text_of_gemma_3_lists_only_what_differs() -> None:
    text = AutoConfig.for_model("gemma3", text_config=GEMMA_3_4B["text_config"]).get_text_config()
    shape = model_shape(GEMMA_3_4B, "gemma")
    assert shape == model_shape(text.to_dict(), "gemma")
    assert (shape.num_heads, shape.head_size, shape.vocab_size) == (8, 256, 262208)


def test_an_entry_that_is_null_is_no_default() -> None:
    """Mistral's class has 8 key and value heads; null stands for as many as there are queries."""
    assert model_shape({"model_type": "mistral"}).num_kv_heads == 8
    assert model_shape({"model_type": "mistral", "num_key_value_heads": None}).num_kv_heads == 32


def test_layers_by_another_name_are_no_default() -> None:
    """EXAONE's own files say num_layers, and its class has 32."""
    assert model_shape({"model_type": "exaone", "num_layers": 30}).num_layers == 30

"""The counts of a model's weights equal those of transformers' own models."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from dskd_ds.costs.shapes import GATED_MLP, TWO_MATRIX_MLP, model_shape
from dskd_ds.errors import InputError

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 300,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
WIDE_HEADS = {**GROUPED, "head_dim": 32}
IDS = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
CASES: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "mistral": GROUPED,
    "qwen2": GROUPED,
    "qwen3": WIDE_HEADS,
    "gemma": WIDE_HEADS,
    "gemma2": WIDE_HEADS,
    "gemma3_text": WIDE_HEADS,
    "olmo": GROUPED,
    "olmo2": GROUPED,
    "phi3": GROUPED,
    "starcoder2": GROUPED,
    "granite": GROUPED,
    "smollm3": GROUPED,
    "apertus": GROUPED,
    "arcee": GROUPED,
    "cohere": GROUPED,
    "cohere2": GROUPED,
    "cwm": WIDE_HEADS,
    "ernie4_5": WIDE_HEADS,
    "exaone": GROUPED,
    "exaone4": GROUPED,
    "glm": WIDE_HEADS,
    "glm4": WIDE_HEADS,
    "helium": {**GROUPED, "head_dim": 16},
    "internlm3": WIDE_HEADS,
    "jais2": GROUPED,
    "ministral3": WIDE_HEADS,
    "nemotron": GROUPED,
    "olmo3": GROUPED,
    "opt": {**SIZES, "ffn_dim": 160},
    "phi": GROUPED,
    "seed_oss": WIDE_HEADS,
    "stablelm": {**GROUPED, "use_qkv_bias": True},
    "vaultgemma": WIDE_HEADS,
    "gpt_neox": SIZES,
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 300, "n_positions": 128},
    "mpt": {"d_model": 64, "n_heads": 4, "n_layers": 3, "vocab_size": 300},
}


@pytest.mark.parametrize("kind", CASES)
def test_as_many_weights_as_the_model_has(kind: str) -> None:
    config = AutoConfig.for_model(kind, **{**CASES[kind], **IDS})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shape = model_shape(config.to_dict(), kind)
    assert shape.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert shape.tied == (embedding.weight is head.weight)
    # The shortened configuration that save_pretrained writes gives the same sizes.
    short = {**config.to_diff_dict(), "model_type": kind}
    assert model_shape(short, kind) == shape


@pytest.mark.parametrize(
    ("kind", "bias"),
    [
        ("llama", "attention_bias"),
        ("llama", "mlp_bias"),
        ("nemotron", "attention_bias"),
        ("nemotron", "mlp_bias"),
        ("arcee", "mlp_bias"),
        ("qwen3", "attention_bias"),
        ("glm", "attention_bias"),
    ],
)
def test_biases_are_counted(kind: str, bias: str) -> None:
    config = AutoConfig.for_model(kind, **{**CASES[kind], **IDS, bias: True})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert model_shape(config.to_dict(), kind).num_parameters == counted


def test_every_listed_type_is_compared_with_its_model() -> None:
    """Apart from gemma3, whose text has the type gemma3_text."""
    assert CASES.keys() | {"gemma3"} == GATED_MLP | TWO_MATRIX_MLP


def test_a_model_with_fewer_layers() -> None:
    shape = model_shape({"model_type": "llama", **GROUPED})
    short = shape.with_layers(1)
    assert shape.num_parameters - short.num_parameters == 2 * shape.parameters_per_layer
    assert (shape.query_size, shape.kv_size) == (64, 32)


def test_llama_3_8b_has_its_published_number_of_weights() -> None:
    config = {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
    }
    assert model_shape(config).num_parameters == 8_030_261_248


def test_what_has_no_formula_is_refused() -> None:
    with pytest.raises(InputError, match="mixture of experts"):
        model_shape({"model_type": "mixtral", **GROUPED, "num_local_experts": 8})
    with pytest.raises(InputError, match="no hidden_size"):
        model_shape({"model_type": "llama", "hidden_size": None}, "some-llama")
    for kind in ("t5", "qwen3_5_text", "nanochat"):
        with pytest.raises(InputError, match=f'some: its type \\(model_type = "{kind}"\\) has no'):
            model_shape({"model_type": kind, **GROUPED}, "some")


def test_importing_the_shapes_loads_no_torch() -> None:
    code = "import sys, dskd_ds.costs.shapes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

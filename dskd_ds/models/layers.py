"""The layers of a model: where they are, how its configuration lists them, how to compile them."""

from __future__ import annotations

import copy
import os
import shutil
from typing import Any

import torch

from dskd_ds.errors import InputError
from dskd_ds.models.named import NamedModel

PER_LAYER = frozenset(
    {
        "activation_sparsity_pattern",
        "indexer_types",
        "intermediate_size",
        "kv_sharing_modes",
        "layer_rope_theta",
        "layers_block_type",
        "layers_num_experts",
        "moe_topk",
        "no_rope_layers",
        "num_attention_heads_per_layer",
        "num_experts",
        "num_key_value_heads_per_layer",
        "sliding_windows",
        "swiglu_limits",
        "swiglu_limits_shared",
    }
)
"""Entries of transformers' configurations that may have one item per layer.

So do all entries whose name ends in `layer_types`. They are listed by name, because the length of
another list (e.g. of several `eos_token_id`) can equal the number of layers by chance.
"""

LAYER_NUMBERS = frozenset(
    {"attn_layer_indices", "mlp_only_layers", "moe_layers", "rope_scaling_layers"}
)
"""Entries that list the numbers of some layers."""

FIRST_NUMBERS = frozenset({"first_k_dense_replace", "moe_layer_start_index", "num_dense_layers"})
"""Entries that give the number of the first layer with experts; the layers before it are dense."""

FINAL_NORMS = (
    "norm",
    "final_layernorm",
    "final_layer_norm",
    "final_norm",
    "norm_f",
    "embedding_norm",
)
"""Names of the final norm in transformers; LFM2 calls it `embedding_norm`."""


def keep_in_config(config: Any, kept: list[int]) -> None:
    """Change a text configuration to that of the model with only the layers `kept`.

    kept: layer numbers from 0, ascending.
    """
    total = config.num_hidden_layers
    config.num_hidden_layers = len(kept)
    for name, value in list(vars(config).items()):
        if name in FIRST_NUMBERS and isinstance(value, int):
            setattr(config, name, sum(layer < value for layer in kept))
        if not isinstance(value, list | tuple):
            continue
        if name in LAYER_NUMBERS:
            new_numbers = [new for new, old in enumerate(kept) if old in value]
            setattr(config, name, type(value)(new_numbers))
        elif len(value) == total and (name in PER_LAYER or name.endswith("layer_types")):
            setattr(config, name, type(value)(value[layer] for layer in kept))


def layers_of(model: Any, key: str = "[student] model") -> Any:
    """Return the layers of a causal language model, or of its trunk, in order: a ModuleList.

    key: the setting that names the model. Raises InputError for an architecture that does not keep
    its layers in `layers`.
    """
    layers = getattr(model.base_model, "layers", None)
    if layers is None:
        raise InputError(
            f"{key}: {type(model).__name__} does not keep its layers in"
            f" `{model.base_model_prefix}.layers`, where this project cuts, trains and compiles"
            " them.\n"
            "  use a model of another architecture (Llama, Qwen, Mistral, Gemma, OLMo ... do)."
        )
    return layers


def final_norm_of(trunk: Any, key: str) -> Any:
    """Return the norm between the last layer of a trunk and the head.

    key: the setting that names the model. Raises InputError for an architecture that has another
    name for it.
    """
    norms = (getattr(trunk, name, None) for name in FINAL_NORMS)
    norm = next((found for found in norms if found is not None), None)
    if norm is None:
        raise InputError(
            f"{key}: {type(trunk).__name__} keeps its final norm under none of the names"
            f" {', '.join(FINAL_NORMS)}.\n"
            '  name the layers to keep: [student] layers = "list", keep_layers = [...].'
        )
    return norm


def compile_layers(model: Any, key: str = "[student] model") -> None:
    """Compile each layer with `torch.compile`, which fuses the work between matrix products.

    Layers are compiled when they first run, and equal layers share their code. Only `forward` is
    compiled: ZeRO-3's hooks, which gather and release a layer's weights, stay around it in Python.
    Raises InputError as `layers_of` does.
    """
    for layer in layers_of(model, key):
        layer.forward = torch.compile(layer.forward)


def check_compiler(key: str) -> None:
    """Raise InputError if `compile_layers` would fail at the first step without a compiler.

    On a CPU torch writes C++. key: the section of the spec that asks for it.
    """
    compiler = os.environ.get("CXX", "g++")
    if not torch.accelerator.is_available() and shutil.which(compiler) is None:
        raise InputError(
            f"{key} compile = true, but there is no {compiler} here; torch needs it to compile for"
            " a CPU.\n"
            "  install g++, name another compiler in $CXX, or set compile = false."
        )


def check_layers(model: NamedModel) -> None:
    """Raise InputError if `layers_of` would for the loaded model; reads the configuration only."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(model.config)  # from_config may write into it
    try:
        with torch.device("meta"):  # no weights are allocated
            empty: Any = AutoModelForCausalLM.from_config(config)
    except ValueError:  # transformers' message lists every configuration that it supports
        raise InputError(
            f"{model.key}: {type(config).__name__} is not the configuration of a causal language"
            " model.\n  use a model that writes text."
        ) from None
    layers_of(empty, model.key)

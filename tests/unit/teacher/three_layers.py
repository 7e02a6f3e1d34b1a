"""A small teacher with three real layers and random weights."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from dskd_ds.models.frozen import FrozenModel
from dskd_ds.models.head import PLAIN

V, D, NUM_LAYERS = 40, 16, 3


def three_layer_teacher(dtype: torch.dtype = torch.float32) -> FrozenModel:
    """Return the teacher; its weights are the same in every call."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=D,
        intermediate_size=24,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model = AutoModelForCausalLM.from_config(config).eval().to(dtype)
    return FrozenModel(
        trunk=model.base_model,
        head=model.get_output_embeddings().weight.detach(),
        form=PLAIN,
        vocab_size=V,
        hidden_size=D,
        fingerprint="f",
        device=torch.device("cpu"),
    )

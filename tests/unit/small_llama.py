"""A small frozen Llama with attention, whose sums round differently in another shape."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from dskd_ds.models.frozen import FrozenModel
from dskd_ds.models.head import PLAIN


def small_llama(vocab_size: int, hidden_size: int, num_layers: int = 2) -> FrozenModel:
    """Some layers with random weights, the same for each call."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    return FrozenModel(
        trunk=model.base_model,
        head=model.get_output_embeddings().weight.detach(),
        form=PLAIN,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        fingerprint="f",
        device=torch.device("cpu"),
    )

"""Bytes of a model's activations: what a forward pass keeps, and what a backward pass needs.

The counts per token and layer were read off torch's memory tracker with fake tensors of Llama,
Qwen 3, Gemma 3, OLMo 2 and Phi-3 (plan/fake_memory.py; a test compares them again). They hold for a
fused attention kernel, which keeps no matrix of probabilities. Loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from dskd_ds.costs.shapes import ModelShape


@dataclass(frozen=True)
class ActivationBytes:
    """Bytes of one micro-batch."""

    kept: float
    """What the forward pass of all layers keeps for the backward pass."""
    backward: float
    """The largest working memory of a layer's backward pass."""
    states: float
    """The last hidden state, its norm and its gradient."""


def activation_bytes(
    shape: ModelShape,
    *,
    rows: int,
    row_tokens: int,
    number_bytes: int,
    trained_layers: int,
    checkpointing: bool,
    packed: bool,
) -> ActivationBytes:
    """Return the bytes of one micro-batch of `rows` rows with `row_tokens` tokens each.

    number_bytes: 2 for half formats, 4 for float32. trained_layers: the last ones; the layers below
    keep nothing. packed: whether rows hold several documents, so that attention needs a mask.
    """
    tokens = rows * row_tokens
    layer = tokens * _layer_bytes(shape, number_bytes, row_tokens if packed else 0)
    # Gradients of the MLP's two widest tensors and of the residual exist together.
    backward: float = tokens * number_bytes * (2 * shape.intermediate_size + shape.hidden_size)
    kept: float = trained_layers * layer
    if checkpointing:
        # Each layer's input; all else of one layer is computed again for its backward pass.
        kept = trained_layers * tokens * shape.hidden_size * number_bytes
        backward += layer
    states = tokens * (_norm_bytes(shape, number_bytes) + shape.hidden_size * number_bytes)
    return ActivationBytes(kept=kept, backward=backward, states=states)


def forward_bytes(shape: ModelShape, *, rows: int, row_tokens: int, number_bytes: int) -> float:
    """Return the largest working memory of a forward pass without gradients.

    The widest place is the MLP: residual, its norm, and three tensors of the MLP's width. The mask
    of packed rows is made once, and in float32 for each layer in turn.
    """
    tokens = rows * row_tokens
    width = 4 * shape.hidden_size + 3 * shape.intermediate_size
    return tokens * (width * number_bytes + row_tokens * (1 + number_bytes))


def _layer_bytes(shape: ModelShape, number_bytes: int, mask_tokens: int) -> float:
    """Return the bytes per token that the forward pass of one layer keeps.

    Attention keeps queries, keys and values (repeated for each query head), and its result twice,
    in two orders; the MLP keeps four tensors of its width, two without a gate. mask_tokens: width
    of the mask, which the kernel converts and keeps.
    """
    attention = 4 * shape.query_size
    mlp = (4 if shape.gated else 2) * shape.intermediate_size
    numbers = attention + mlp + mask_tokens
    num_norms = shape.norms_per_layer
    norms = num_norms * _norm_bytes(shape, number_bytes)
    head_norms = 0
    if shape.norms_queries:
        # The norm's input in float32 and its result before the weight; the output is rotated.
        head_norms = (shape.query_size + shape.kv_size) * (4 + number_bytes)
    log_sums = 4 * shape.num_heads
    return numbers * number_bytes + norms + head_norms + log_sums


def _norm_bytes(shape: ModelShape, number_bytes: int) -> float:
    """Return the bytes per token that a norm keeps: input, normalised input and output.

    It computes in float32, so in a half format the input is kept as a float32 copy.
    """
    return (4 + 2 * number_bytes) * shape.hidden_size

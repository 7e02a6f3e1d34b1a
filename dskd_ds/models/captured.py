"""Captures the states after some layers of a model during its forward pass.

Hooks are used, because transformers' `output_hidden_states` keeps the states of all layers, and of
the last layer only the normalised one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dskd_ds.models.layers import layers_of


@contextmanager
def captured_states(model: Any, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Return a dictionary that a forward pass within this context fills: layer -> state [B, T, D].

    model: a causal language model, or its trunk. layers: 0 is the embeddings, k the output of the
    k-th layer, before the final norm. Raises ValueError if the model does not have these layers.
    """
    captured: dict[int, Tensor] = {}
    if not layers:
        yield captured
        return
    modules = layers_of(model)
    if not 0 <= min(layers) <= max(layers) <= len(modules):
        raise ValueError(f"layers {list(layers)} of a model that has {len(modules)} layers")
    with ExitStack() as hooks:
        for layer in layers:
            handle = _capture(modules, layer, captured)
            hooks.callback(handle.remove)
        yield captured


def rows_at_layers(
    captured: Mapping[int, Tensor], layers: Sequence[int], positions: Tensor
) -> Tensor:
    """Return the captured states [layers, M, D] at M positions through the flattened B * T."""
    states = [captured[layer].flatten(0, 1) for layer in layers]
    return torch.stack([state[positions.to(state.device)] for state in states])


def _capture(modules: Any, layer: int, captured: dict[int, Tensor]) -> Any:
    """Register the hook that captures one layer's output, or the first layer's input for 0."""

    def keep_output(_module: nn.Module, _args: Any, output: Any) -> None:
        captured[layer] = state_of(output)

    def keep_input(_module: nn.Module, args: Any) -> None:
        captured[layer] = args[0]

    if layer == 0:
        return modules[0].register_forward_pre_hook(keep_input)
    return modules[layer - 1].register_forward_hook(keep_output)


def state_of(output: Any) -> Tensor:
    """Return the state in what a layer returns: a tensor, in some architectures in a tuple."""
    state: Tensor = output[0] if isinstance(output, tuple) else output
    return state

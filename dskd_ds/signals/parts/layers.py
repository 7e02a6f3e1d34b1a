"""The layer-states part: the teacher's states after some of its layers, at the same positions.

A layer is counted by its output: 0 is the embeddings, k the state after the k-th layer, before the
final norm. The rows of the arrays go layer by layer.
"""

from __future__ import annotations

from torch import Tensor

from dskd_ds.link.messages import Array, Wanted
from dskd_ds.signals.parts.states import pack_hidden, read_packed


def layer_arrays(states: Tensor, wanted: Wanted) -> dict[str, Array]:
    """Return the reply's arrays. states: [layers, M, D]."""
    numbers, scales = pack_hidden(states.flatten(0, 1), wanted.hidden_format)
    return {"layer_states": numbers, "layer_scales": scales}


def read_layers(
    arrays: dict[str, Array], wanted: Wanted, num_positions: int, hidden_size: int
) -> Tensor:
    """Return the states [layers, M, D]. Raises ValueError if shapes or values do not fit."""
    num_layers = len(wanted.layers)
    states = read_packed(
        arrays,
        ("layer_states", "layer_scales"),
        num_layers * num_positions,
        wanted.hidden_format,
        hidden_size,
    )
    return states.view(num_layers, num_positions, hidden_size)


def no_layers(hidden: Tensor) -> Tensor:
    """Return the part of a reply to a request that names no layers. hidden: [P, D]."""
    return hidden.new_zeros(0, 0, hidden.shape[1])

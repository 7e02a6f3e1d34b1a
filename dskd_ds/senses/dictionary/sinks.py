"""Attention sinks: positions whose state below the last layer is far longer than all others.

Such a position is a place for attention to rest on; its state knows no text. In SmolLM2 these are
the first token of a text and its end; at layer 21 the squared length of their states is 8,000 times
the median. One of them in a cluster decides the mean of its sense.
Source: Xiao et al., arXiv 2309.17453; Sun et al., Massive Activations, arXiv 2402.17762.
"""

from __future__ import annotations

from torch import Tensor

SINK_FACTOR = 100.0
"""A state of more than this times the median squared length is a sink: 10 times as long."""


def is_sink(squared: Tensor, median: float | Tensor) -> Tensor:
    """Return which states are sinks [N]. squared: [N] their squared lengths. median: of such."""
    return squared > SINK_FACTOR * median


def squared_lengths(states: Tensor) -> Tensor:
    """Return the squared length [N] of states [N, D], in float32."""
    return states.float().square().sum(dim=1)

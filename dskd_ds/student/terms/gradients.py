"""Measures, in the backward pass, the gradient of each loss below the head beside all others'.

Both are gradients by the state that the term reads: the term's own, and that of all losses that
come down from the layers above (cross-entropy, KL, the sense term, terms of higher layers). They
are there in any backward pass, so measuring takes no second one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

OWN, REST, PRODUCT = range(3)
"""Columns of the sums: squared norm of a term's gradient, squared norm of that of all other losses,
and the product of the two."""


@dataclass(frozen=True)
class GradientMeasure:
    """What the backward passes of one step say about one term."""

    share: float
    """Norm of the term's gradient over the norm of the gradient of all other losses."""
    cosine: float
    """Cosine of the two; negative where the term works against the other losses."""


@dataclass
class _Layer:
    """The terms of one layer in one micro-batch: their positions, and their gradients by term."""

    positions: Tensor
    own: dict[int, Tensor] = field(default_factory=dict)


class TermGradients:
    """Sums over the micro-batches of a step."""

    def __init__(self, num_terms: int) -> None:
        self._num_terms = num_terms
        self._sums: Tensor | None = None

    def watch(self, state: Tensor, positions: Tensor, found: dict[int, Tensor]) -> None:
        """Measure the gradients of one layer in the coming backward pass.

        state: [B, T, D], the layer's output. positions: [N] through the flattened B * T. found: the
        states [N, D] at these positions that each term reads, by the term's index.
        """
        if not state.requires_grad:
            return
        layer = _Layer(positions)
        for index, read in found.items():
            read.register_hook(lambda grad, index=index: layer.own.update({index: grad}))
        state.register_hook(lambda grad: self._add(layer, grad))

    def _add(self, layer: _Layer, total: Tensor) -> None:
        """Add the products of one layer's gradients. total: [B, T, D], of all losses together."""
        if self._sums is None:
            shape = (self._num_terms, 3)
            self._sums = torch.zeros(shape, dtype=torch.float64, device=total.device)
        # Attention lets gradients reach other positions too, where no term has any.
        rest = total.flatten(0, 1).index_select(0, layer.positions).float()
        for own in layer.own.values():
            rest -= own.float()
        rest_square = rest.square().sum()
        for index, own in layer.own.items():
            products = (own.float().square().sum(), rest_square, (own.float() * rest).sum())
            self._sums[index] += torch.stack(products)
        layer.own.clear()

    def take(self, device: torch.device) -> Tensor:
        """Return the sums [terms, 3] float64 since the last call, and start again from 0."""
        sums, self._sums = self._sums, None
        if sums is None:
            sums = torch.zeros(self._num_terms, 3, dtype=torch.float64, device=device)
        return sums


def measures_of(sums: Tensor) -> list[GradientMeasure]:
    """Return what the sums [terms, 3] of all ranks say about each term; NaN where nothing is."""
    own, rest, product = sums[:, OWN].sqrt(), sums[:, REST].sqrt(), sums[:, PRODUCT]
    shares, cosines = (own / rest).tolist(), (product / (own * rest)).tolist()
    return [GradientMeasure(share, cosine) for share, cosine in zip(shares, cosines, strict=True)]

"""The weights of the losses below the head, which may fall, or follow a share of the gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dskd_ds.spec.terms import LayerTermSpec
from dskd_ds.student.run_state import State

FOLLOWING_RATE = 0.2
"""Part of the way to the wanted weight that a step takes, in its logarithm: it smooths the noise of
single batches."""
MOST_CHANGE = 1.25
"""Largest factor by which a step changes a weight. A student that was just cut equals its teacher
below the first cut; a term there has hardly a gradient in the first steps, and its weight would
grow without bound."""


class TermWeights:
    """The weight of each term in the present step; equal on all ranks."""

    def __init__(self, terms: Sequence[LayerTermSpec]) -> None:
        self._terms = tuple(terms)
        self._full = [term.weight for term in terms]
        """Each weight without its decay."""
        self.in_step = list(self._full)
        """Weights of the present step."""

    def begin_step(self, share_done: float) -> list[float]:
        """Return the weights of a step. share_done: share of the run before it, 0..1."""
        factors = [decay_factor(term, share_done) for term in self._terms]
        weights = [full * factor for full, factor in zip(self._full, factors, strict=True)]
        self.in_step = weights
        return weights

    def follow(self, shares: Sequence[float]) -> None:
        """Adapt the weights of terms with a `grad_share` to what the present step measured.

        shares: each term's norm over that of all other losses, with the present weights. A share
        that is 0 or not finite (a skipped step) changes nothing.
        """
        for index, (term, share) in enumerate(zip(self._terms, shares, strict=True)):
            weight = self.in_step[index]
            usable = math.isfinite(share) and share > 0 and weight > 0
            if term.grad_share is None or not usable:
                continue
            # Share and weight are proportional, and the decay is a factor of both.
            wanted = term.grad_share * weight / share
            factor = (wanted / self._full[index]) ** FOLLOWING_RATE
            self._full[index] *= min(MOST_CHANGE, max(1 / MOST_CHANGE, factor))

    def state_dict(self) -> State:
        """See run_state.Stateful."""
        return {"full": list(self._full)}  # a save in the background reads it later

    def load_state_dict(self, states: Sequence[State]) -> None:
        """See run_state.Stateful. The ranks have equal states."""
        self._full = list(states[0]["full"])


def decay_factor(term: LayerTermSpec, share_done: float) -> float:
    """Return the factor on a term's weight after a share of the run, 0..1."""
    if term.decay is None:
        return 1.0
    start, end = term.decay
    left = (end - share_done) / (end - start)
    return min(1.0, max(0.0, left))

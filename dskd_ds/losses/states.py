"""Distances between the student's and the teacher's states at a layer, as losses per position."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import cosine_similarity

from dskd_ds.spec.repair import StateDistance

SMALLEST_VARIANCE = 1e-6
"""Lower bound of a target's variance, by which the squared error is divided."""


def relative_squared_error(states: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error [N] of states [N, D] over the variance of each target [N, D].

    The mean and the variance are over a state's dimensions. States of the first token of a document
    are hundreds of times larger than others in many models; divided by its own variance, each
    position counts alike. The result does not depend on how a batch is split.
    """
    states, targets = states.float(), targets.float()
    error = (states - targets).square().mean(dim=1)
    variance = targets.var(dim=1, unbiased=False)
    return error / variance.clamp_min(SMALLEST_VARIANCE)


def cosine_distance(states: Tensor, targets: Tensor) -> Tensor:
    """Return 1 - cos [N] of states [N, D] and targets [N, D]; 0 <= result <= 2."""
    return 1.0 - cosine_similarity(states.float(), targets.float(), dim=1)


DISTANCES: dict[StateDistance, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": relative_squared_error,
    "cosine": cosine_distance,
}
"""Each distance by its name in the spec."""

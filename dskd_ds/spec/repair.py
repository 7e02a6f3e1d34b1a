"""[repair]: a first phase that mends the layers beside each cut, before distillation starts."""

from __future__ import annotations

from typing import Literal

from dskd_ds.spec.base import NonNegativeInt, Part, PositiveFloat

StateDistance = Literal["mse", "cosine"]
"""How far a state of the student is from the teacher's: the mean squared error over the variance of
the teacher's state, or 1 - cosine (losses/states.py)."""


class RepairSpec(Part):
    """Where layers were cut out, the layer beside the gap learns to do their work as well.

    Each such layer gets the teacher's own state as its input, and learns the teacher's state behind
    the gap. All other weights wait. The mended student is then distilled.
    """

    steps: NonNegativeInt = 0
    """Number of optimiser steps of the repair, on the same batches as the first steps of training;
    0 leaves it out."""
    lr: PositiveFloat = 1e-3
    """Peak learning rate of the repair. Warm-up and cosine are those of [optimizer]."""
    distance: StateDistance = "mse"
    """What the repaired layers minimise. `mse`: the squared error over the variance of the
    teacher's state. `cosine`: 1 - cosine of the two states."""
    side: Literal["after", "before"] = "after"
    """Which layer beside a cut is repaired: the kept layer `after` the gap, or the one `before` it.
    At the end of the model there is no layer after the gap, at its start none before it: then the
    other one is repaired."""

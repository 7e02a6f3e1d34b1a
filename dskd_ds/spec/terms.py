"""[[loss.terms]]: losses on the student's states below the head."""

from __future__ import annotations

from typing import Literal

from dskd_ds.spec.base import Fraction, Part, PositiveFloat, PositiveInt
from dskd_ds.spec.repair import StateDistance

TermKind = Literal[StateDistance]
"""What a term below the head compares."""


class LayerTermSpec(Part):
    """Pulls the student's state after one of its layers to a state of the teacher.

    Layers are counted by their outputs: k is the state after the k-th layer, before the final norm.
    """

    kind: TermKind
    """How far the two states are apart. `mse`: the squared error over the variance of the teacher's
    state. `cosine`: 1 - cosine."""
    student_layer: PositiveInt
    """Number of the student's layer whose output the term reads, from 1."""
    teacher_layer: PositiveInt | None = None
    """Number of the teacher's layer whose output is the target, from 1. Without it: the layer that
    the student's layer was cut from; in front of a gap, the layer before the next kept one."""
    weight: PositiveFloat
    """Weight of the term beside cross-entropy and KL: its value is a mean over positions."""
    grad_share: PositiveFloat | None = None
    """Norm that the term's gradient shall have, as a share of the norm of the gradient of all other
    losses, both at the state that the term reads. The weight follows this share, measured in every
    step; `weight` is then only that of the first step. Without it, the weight is fixed."""
    decay: tuple[Fraction, Fraction] | None = None
    """Two shares of the run between which the weight (or `grad_share`) falls linearly to 0:
    `[0.67, 1.0]` is the last third. Without it, the weight does not fall."""

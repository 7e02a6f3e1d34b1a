"""[[loss.terms]]: losses on the student's states below the head."""

from __future__ import annotations

from dskd_ds.spec.base import Part, PositiveFloat, PositiveInt
from dskd_ds.spec.repair import StateDistance


class LayerTermSpec(Part):
    """Pulls the student's state after one of its layers to a state of the teacher.

    Layers are counted by their outputs: k is the state after the k-th layer, before the final norm.
    """

    kind: StateDistance
    """How far the two states are apart. `mse`: the squared error over the variance of the teacher's
    state. `cosine`: 1 - cosine."""
    student_layer: PositiveInt
    """Number of the student's layer whose output the term reads, from 1."""
    teacher_layer: PositiveInt | None = None
    """Number of the teacher's layer whose output is the target, from 1. Without it: the layer that
    the student's layer was cut from; in front of a gap, the layer before the next kept one."""
    weight: PositiveFloat
    """Weight of the term beside cross-entropy and KL: its value is a mean over positions."""

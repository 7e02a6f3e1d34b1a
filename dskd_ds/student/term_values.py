"""The values of the losses below the head in one micro-batch, with their gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dskd_ds.losses.states import DISTANCES
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.student.layer_terms import LayerTerm, teacher_layers_of


def read_states(
    terms: Sequence[LayerTerm], captured: Mapping[int, Tensor], positions: Tensor
) -> list[Tensor]:
    """Return the states [N, D] that each term reads, a tensor of its own per term.

    captured: the student's states [B, T, D] by layer. positions: [N] through the flattened B * T.
    """
    return [
        captured[term.spec.student_layer].flatten(0, 1).index_select(0, positions)
        for term in terms
    ]


def term_sums(
    terms: Sequence[LayerTerm], read: Sequence[Tensor], teacher: TeacherTargets
) -> Tensor:
    """Return each term's sum over the supervised positions [terms], with its gradient.

    read: the states [N, D] of each term. teacher: its `layers` are the states [layers, N, D] of
    `teacher_layers_of(terms)` at its positions.
    """
    assert teacher.layers is not None
    rows = {layer: row for row, layer in enumerate(teacher_layers_of(terms))}
    sums = []
    for term, states in zip(terms, read, strict=True):
        values = DISTANCES[term.spec.kind](states, teacher.layers[rows[term.teacher_layer]])
        if teacher.weights is not None:
            values = values * teacher.weights
        sums.append(values.sum())
    return torch.stack(sums)

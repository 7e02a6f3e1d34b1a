"""Trained maps from the student's states to the teacher's space, for losses below the head.

They exist only where the hidden sizes differ, and are not exported.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from dskd_ds.student.terms.layers import LayerTerm


def term_maps(
    terms: Sequence[LayerTerm], teacher_size: int, size: int, dtype: torch.dtype, seed: int
) -> nn.ModuleDict:
    """Return a map [D_teacher, D] for each term that needs one, by the term's index as a string.

    teacher_size, size: hidden sizes of the teacher and of the student. `gram` compares each model's
    states with each other, so it needs none.

    The weights are drawn from the run's seed, equal on all ranks. They keep the states' scale on
    average. They cannot start at zero as the map at the head does: the cosine of a state that is
    zero has no gradient.
    """
    maps = nn.ModuleDict()
    if size == teacher_size:
        return maps
    draw = torch.Generator().manual_seed(seed)
    for index, term in enumerate(terms):
        if term.spec.kind == "gram":
            continue
        weight = torch.randn(teacher_size, size, generator=draw) / size**0.5
        linear = nn.Linear(size, teacher_size, bias=False, device="meta")
        linear.weight = nn.Parameter(weight.to(dtype))
        maps[str(index)] = linear
    return maps

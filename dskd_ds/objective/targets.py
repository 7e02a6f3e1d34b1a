"""What the objective learns from at the supervised positions of one micro-batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dskd_ds.losses.senses_at_layer import TermSenses
from dskd_ds.signals.kind import Targets


@dataclass(frozen=True)
class TeacherTargets:
    """The right tokens and the teacher's signal at N supervised positions."""

    positions: Tensor
    """[N] int64, through the flattened B * T; each once."""
    targets: Tensor
    """[N] int64: the right tokens."""
    signal: Targets | None = None
    """The targets of the run's signal kind (signals/); None for a kind without a divergence."""
    weights: Tensor | None = None
    """[N] float32: factor of each position in both sums of the loss; None: 1 everywhere."""
    kd_weights: Tensor | None = None
    """[N] float32: factor of each position in the sum of the divergence alone; None: 1
    everywhere."""
    layers: Tensor | None = None
    """[layers, M, D]: the teacher's states after some of its layers. M: `positions`, or all B * T
    while the student is repaired. None if the loss needs no such states."""
    terms: tuple[TermSenses | None, ...] = ()
    """What each loss below the head learns from a dictionary; None for one that reads none."""

    def to(self, device: torch.device) -> TeacherTargets:
        """Return a copy on another device; the copies are asynchronous."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return TeacherTargets(
            positions=self.positions.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
            signal=None if self.signal is None else self.signal.to(device),
            weights=moved(self.weights),
            kd_weights=moved(self.kd_weights),
            layers=moved(self.layers),
            terms=tuple(None if term is None else term.to(device) for term in self.terms),
        )

    def __getitem__(self, rows: slice) -> TeacherTargets:
        """Return the targets of the head at some of the positions."""
        signal = None if self.signal is None else self.signal.rows(rows)
        weights = None if self.weights is None else self.weights[rows]
        kd_weights = None if self.kd_weights is None else self.kd_weights[rows]
        return TeacherTargets(
            positions=self.positions[rows],
            targets=self.targets[rows],
            signal=signal,
            weights=weights,
            kd_weights=kd_weights,
        )

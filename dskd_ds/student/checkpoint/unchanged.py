"""Counts the weights that an optimiser step leaves unchanged, for [student] precision = "bf16".

In bfloat16 an update of less than half a unit of the weight's last digit is lost.
"""

from __future__ import annotations

from typing import Any

import deepspeed
import torch
from torch import Tensor

from dskd_ds.runtime.devices import local_device
from dskd_ds.spec import RunSpec
from dskd_ds.student.deepspeed_engine import Engine


class UnchangedWeights:
    """Counts, over this rank's share of the weights, updates that changed nothing.

    It hooks into the optimiser that DeepSpeed calls, which has this rank's flattened weights as
    its parameters (at stage 3 a group of layers at a time). Only weights with a gradient count, so
    the padding of the flattened weights does not.
    """

    def __init__(self, engine: Engine) -> None:
        optimizer: Any = engine.basic_optimizer
        self._before: list[Tensor] = []
        self._num_unchanged = self._num_updated = 0
        optimizer.register_step_pre_hook(self._remember)
        optimizer.register_step_post_hook(self._count)

    @classmethod
    def of_run(cls, spec: RunSpec, engine: Engine) -> UnchangedWeights | None:
        """Return a counter if updates can be lost, else None."""
        return cls(engine) if spec.student.precision == "bf16" else None

    def _remember(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._before = [weights.detach().clone() for weights in _weights_of(optimizer)]

    def _count(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for before, weights in zip(self._before, _weights_of(optimizer), strict=True):
            assert weights.grad is not None
            has_gradient = weights.grad != 0
            self._num_updated += int(has_gradient.sum())
            self._num_unchanged += int((has_gradient & (weights == before)).sum())
        self._before = []

    def all_reduce_share(self) -> dict[str, float]:
        """Return the last step's share of unchanged weights over all ranks, for the step's record.

        A collective call. The share is 0 if the step updated nothing.
        """
        counts = torch.tensor([self._num_unchanged, self._num_updated], device=local_device())
        self._num_unchanged = self._num_updated = 0
        deepspeed.comm.all_reduce(counts)
        num_unchanged, num_updated = counts.tolist()
        return {"unchanged_weights": num_unchanged / max(1, num_updated)}


def _weights_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the parameters that the present call of the optimiser updates."""
    parameters = [weights for group in optimizer.param_groups for weights in group["params"]]
    return [weights for weights in parameters if weights.grad is not None]

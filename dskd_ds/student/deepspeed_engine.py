"""The part of DeepSpeed's engine that this project calls, as a type.

The modules that `engine.py` imports use this type, so it has a module of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter

from dskd_ds.losses.sense import SenseTargets
from dskd_ds.objective.fused import Scales
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.student.counts import Counts


class TrainedModule(Protocol):
    """The module that DeepSpeed trains, around a causal language model of transformers."""

    language_model: Any

    @property
    def stat_names(self) -> tuple[str, ...]:
        """Names of the sums that a forward pass returns, in order."""
        ...

    def loss_record(self, total: dict[str, float], counts: Counts) -> dict[str, float]:
        """Return the losses of a step for its record. total: sums over all ranks, by name."""
        ...

    def all_reduce_gradient_measures(self) -> None:
        """Add up over all ranks what the step's backward passes measured. A collective call."""
        ...

    def parameters(self) -> Iterator[Parameter]:
        """Return all parameters."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Return all parameters with their names."""
        ...


class Engine(Protocol):
    """What this project uses of DeepSpeed's engine, which has no types of its own."""

    module: TrainedModule
    optimizer: Any
    basic_optimizer: Any
    """The optimiser inside of ZeRO's: AdamW over this rank's flattened weights."""
    device: torch.device
    global_rank: int
    skipped_steps: int

    def __call__(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        teacher: TeacherTargets,
        senses: SenseTargets | None = None,
        scales: Scales | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run the module's forward: the loss to backpropagate, and the sums of `stat_names`."""
        ...

    def train(self) -> Any:
        """Let the modules work as in training, with dropout."""
        ...

    def eval(self) -> Any:
        """Let the modules work as in evaluation, without dropout."""
        ...

    def backward(self, loss: Tensor) -> Any:
        """Compute gradients of one micro-batch, and reduce them at the accumulation boundary."""
        ...

    def step(self) -> Any:
        """Update the weights at the accumulation boundary."""
        ...

    def is_gradient_accumulation_boundary(self) -> bool:
        """Whether the current micro-batch is the step's last."""
        ...

    def was_step_applied(self) -> bool:
        """Whether the last `step` updated the weights."""
        ...

    def get_global_grad_norm(self) -> Any:
        """The norm of the last step's gradients over all ranks, before clipping."""
        ...

    def destroy(self) -> None:
        """Remove the hooks and free what the engine holds."""
        ...

    def get_lr(self) -> list[float]:
        """The rate of each parameter group."""
        ...

"""A student of two small parameters under torch's Adam, as DeepSpeed's stage 0 has it."""

from __future__ import annotations

from typing import Any

import torch

from dskd_ds.spec import RunSpec
from dskd_ds.student.checkpoint.store import Checkpoints, Progress
from dskd_ds.student.run_state import EngineState

INIT = "fingerprint of the initial student"


class SmallEngine:
    """What `Checkpoints` uses of an engine. Its weights and moments follow from the steps."""

    def __init__(self) -> None:
        self.module: Any = torch.nn.Linear(3, 2)
        with torch.no_grad():
            self.module.weight.copy_(torch.arange(6.0).view(2, 3))
            self.module.bias.zero_()
        self.optimizer: Any = torch.optim.AdamW(self.module.parameters(), lr=0.1)
        self.global_steps = self.global_samples = self.skipped_steps = 0

    def train(self, num_steps: int) -> SmallEngine:
        """Make some updates, and return the engine."""
        for _ in range(num_steps):
            self.global_steps += 1
            for number, parameter in enumerate(self.module.parameters(), start=self.global_steps):
                parameter.grad = torch.full_like(parameter, number)
            self.optimizer.step()
        return self

    def numbers(self) -> list[float]:
        """Return all weights, moments and counters."""
        found: list[float] = [self.global_steps]
        for parameter in self.module.parameters():
            found += parameter.flatten().tolist()
            state = self.optimizer.state.get(parameter, {})
            for _, value in sorted(state.items()):
                found += value.flatten().tolist()
        return found


def checkpoints_of(engine: SmallEngine, spec: RunSpec, **states: Any) -> Checkpoints:
    """Return the checkpoints of a run with this engine. states: besides the engine's, by name."""
    all_states = {"engine": EngineState(engine), **states}  # type: ignore[arg-type]
    return Checkpoints(engine, spec, INIT, all_states)  # type: ignore[arg-type]


def save(engine: SmallEngine, spec: RunSpec, step: int) -> None:
    """Save a checkpoint of the engine. Every step has ten tokens."""
    checkpoints_of(engine, spec).save(Progress(step, 10 * step))

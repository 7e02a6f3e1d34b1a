"""What else a resumed run must get back, besides weights and moments: small states by name.

Each of them is an object with `state_dict` and `load_state_dict`. A checkpoint stores the states of
every rank as JSON. Random generators are not among them: every draw of a run has a key, made of the
seed and of what is drawn for (data/batches.py, models/generation.py, student/dropout.py). So a
resumed run draws the same, with any number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from dskd_ds.student.deepspeed_engine import Engine

State = dict[str, Any]
"""Values of JSON by name."""
COUNTERS = ("global_steps", "global_samples", "skipped_steps")
"""DeepSpeed's counters of an engine."""
SCALER_VALUES = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""What changes in DeepSpeed's dynamic loss scaler; a static one has only the first."""


class Stateful(Protocol):
    """An object whose state belongs into a checkpoint."""

    def state_dict(self) -> State:
        """Return this rank's state, as JSON."""
        ...

    def load_state_dict(self, states: Sequence[State]) -> None:
        """Take the state of a checkpoint. states: of all ranks that saved it, by rank.

        Their number may differ from that of the ranks which load it.
        """
        ...


class EngineState:
    """DeepSpeed's counters and, in float16, its loss scale."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def state_dict(self) -> State:
        """See Stateful."""
        counters = {name: int(getattr(self._engine, name)) for name in COUNTERS}
        scaler = getattr(self._engine.optimizer, "loss_scaler", None)
        scaler_values = {
            name: getattr(scaler, name) for name in SCALER_VALUES if hasattr(scaler, name)
        }
        return {"counters": counters, "loss_scaler": scaler_values}

    def load_state_dict(self, states: Sequence[State]) -> None:
        """See Stateful. The ranks have equal states."""
        for name, value in states[0]["counters"].items():
            setattr(self._engine, name, value)
        scaler = getattr(self._engine.optimizer, "loss_scaler", None)
        for name, value in states[0]["loss_scaler"].items():
            if hasattr(scaler, name):
                setattr(scaler, name, value)

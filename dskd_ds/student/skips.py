"""Decides which steps all ranks skip, and when a row of skipped steps calls for a rollback.

A skipped step changes no weight and no moment; its data are used up, and the schedule goes on. The
loss of each rank is all-reduced before a step's last backward pass, and the gradient norm by
DeepSpeed, so everything here is computed from numbers that are equal on all ranks.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dskd_ds.spec.training import TrainSpec

SkipCause = Literal["loss", "spike", "gradient", "overflow"]
"""Why a step was skipped: its loss was not finite; its loss was a spike; its gradients were not
finite; or its gradients overflowed in float16, which lowered the loss scale."""
CAUSES: tuple[SkipCause, ...] = ("loss", "spike", "gradient", "overflow")

SMALLEST_SIGMA_SHARE = 1e-3
"""Smallest standard deviation of the window, as a share of its mean: equal losses are no reason to
skip a step whose loss is a little higher."""
MAX_ROLLBACKS = 3
"""Rollbacks after which a run that is still not trained ends."""


@dataclass(frozen=True)
class StepFacts:
    """What all ranks know after a step; the same on all ranks."""

    losses: list[float]
    """Each rank's part of the step's loss, by rank."""
    loss_limit: float
    """A loss above it is a spike."""
    is_applied: bool
    """Whether the weights were updated."""
    has_lowered_scale: bool = False
    """Whether the gradients overflowed in float16, and the loss scale was not at its minimum."""

    @property
    def loss(self) -> float:
        """The step's loss; NaN if that of a rank is not finite."""
        # An infinite loss of one rank and -inf of another would make `fsum` raise.
        return math.nan if self.bad_ranks else math.fsum(self.losses)

    @property
    def bad_ranks(self) -> list[int]:
        """The ranks whose loss is not finite."""
        return [rank for rank, loss in enumerate(self.losses) if not math.isfinite(loss)]

    @property
    def cause(self) -> SkipCause | None:
        """Why the step was skipped; None if the weights were updated."""
        if self.is_applied:
            return None
        if self.bad_ranks:
            return "loss"
        if self.loss > self.loss_limit:
            return "spike"
        return "overflow" if self.has_lowered_scale else "gradient"

    def describe(self) -> str:
        """Return why the step was skipped, for a message. It names the rank where one is known."""
        if self.cause == "loss":
            named = ", ".join(f"rank {rank}: {self.losses[rank]}" for rank in self.bad_ranks[:8])
            return f"its loss is not finite ({named})"
        if self.cause == "spike":
            highest = max(range(len(self.losses)), key=self.losses.__getitem__)
            return (
                f"its loss {self.loss:.4g} is a spike, above {self.loss_limit:.4g}"
                f" (the largest part is that of rank {highest}: {self.losses[highest]:.4g})"
            )
        if self.cause == "overflow":
            return "its gradients overflow in float16; the loss scale is lowered"
        return (
            "the norm of its gradients is not finite, but the losses are"
            " (the gradients are summed over all ranks, so the rank is unknown)"
        )


class Skips:
    """The skipped steps of a run, and the window of losses that decides what a spike is.

    It is the same on all ranks, and part of what a checkpoint stores.
    """

    def __init__(self, spec: TrainSpec) -> None:
        self._sigmas = spec.skip_loss_spikes
        self._row_limit = spec.rollback_after_skips
        self._window: deque[float] = deque(maxlen=spec.spike_window_steps)
        self.counts: dict[SkipCause, int] = dict.fromkeys(CAUSES, 0)
        """Cause -> skipped steps of the whole run."""
        self.in_a_row = 0
        """Steps skipped since the last update or rollback. Overflows in float16 do not count: the
        loss scale has to be found at the start of each run."""
        self.num_rollbacks = 0
        """Rollbacks of the whole run."""
        self.rollbacks_in_a_row = 0
        """Rollbacks since as many updates as skipped steps lead to a rollback."""
        self.weights_step = 0
        """Number of the step that made the present weights; 0: the initial ones."""
        self._updates_in_a_row = 0

    @property
    def total(self) -> int:
        """Skipped steps of the whole run."""
        return sum(self.counts.values())

    def note_start(self, step: int) -> None:
        """Take in that training starts with the weights of `step`, unless a state says more."""
        self.weights_step = self.weights_step or step

    def loss_limit(self) -> float:
        """Return the loss above which the next step is a spike; infinite if none can be."""
        if self._sigmas == 0 or len(self._window) < (self._window.maxlen or 0):
            return math.inf
        mean = statistics.fmean(self._window)
        smallest_sigma = SMALLEST_SIGMA_SHARE * abs(mean)
        return mean + self._sigmas * max(statistics.pstdev(self._window), smallest_sigma)

    def note(self, step: int, facts: StepFacts) -> None:
        """Take in a finished step. step: its number, counted from 1."""
        # Spikes are added too. If the losses stay high, the window adapts within a few steps
        # instead of skipping the rest of the run.
        if self._sigmas and math.isfinite(facts.loss):
            self._window.append(facts.loss)
        if facts.cause is None:
            self.weights_step = step
            self.in_a_row = 0
            self._updates_in_a_row += 1
            if self._updates_in_a_row >= self._row_limit:
                self.rollbacks_in_a_row = 0
            return
        self.counts[facts.cause] += 1
        self._updates_in_a_row = 0
        if facts.cause != "overflow":
            self.in_a_row += 1

    @property
    def is_rollback_due(self) -> bool:
        """Whether `[train] rollback_after_skips` steps in a row were skipped."""
        return 0 < self._row_limit <= self.in_a_row

    @property
    def has_rolled_back_in_vain(self) -> bool:
        """Whether another rollback is not worth a try."""
        return self.rollbacks_in_a_row >= MAX_ROLLBACKS

    def note_rollback(self, step: int) -> None:
        """Take in a rollback to the weights of `step`."""
        self.num_rollbacks += 1
        self.rollbacks_in_a_row += 1
        self.in_a_row = self._updates_in_a_row = 0
        self.weights_step = step

    def record(self) -> dict[str, float]:
        """Return the counts for a step's record."""
        by_cause = {f"skipped_for_{cause}": float(self.counts[cause]) for cause in CAUSES}
        return {
            "skipped": float(self.total),
            **by_cause,
            "rollbacks": float(self.num_rollbacks),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, as JSON values."""
        return {
            "window": list(self._window),
            "counts": dict(self.counts),
            "in_a_row": self.in_a_row,
            "num_rollbacks": self.num_rollbacks,
            "rollbacks_in_a_row": self.rollbacks_in_a_row,
            "weights_step": self.weights_step,
            "updates_in_a_row": self._updates_in_a_row,
        }

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Continue from what `state_dict` returned. A smaller window keeps the newest losses.

        states: of all ranks, which are equal.
        """
        state = states[0]
        self._window.clear()
        self._window.extend(state["window"])
        self.counts = {cause: int(state["counts"].get(cause, 0)) for cause in CAUSES}
        self.in_a_row = int(state["in_a_row"])
        self.num_rollbacks = int(state["num_rollbacks"])
        self.rollbacks_in_a_row = int(state["rollbacks_in_a_row"])
        self.weights_step = int(state["weights_step"])
        self._updates_in_a_row = int(state["updates_in_a_row"])

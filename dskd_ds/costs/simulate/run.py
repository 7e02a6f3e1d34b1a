"""Simulates a whole run: the step model for the time of a step, the run model for all else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from dskd_ds.costs.simulate.launches import SimulatedLaunches, simulate_launches
from dskd_ds.costs.simulate.run_costs import Pauses, RunCosts
from dskd_ds.costs.simulate.steps import simulate_steps

REQUESTS = 200_000
"""Requests that the step model follows at most: some seconds of computing."""
LEAST_STEPS = 30
MOST_STEPS = 200


@dataclass(frozen=True)
class SimulatedRun:
    """How long a run takes, and where the time goes."""

    step_seconds: float
    """Of a step while all teachers are there."""
    teacher_wait_seconds: float
    """Of a step, while all teachers are there."""
    teacher_busy: float
    """Mean share of the time in which a teacher computes."""
    tokens_per_second: float
    """Of steps that are kept, over the whole time."""
    launches: SimulatedLaunches

    @property
    def hours(self) -> float:
        """Hours of the whole run."""
        return self.launches.seconds / 3600

    @property
    def lost_share(self) -> float:
        """Share of the time that is not spent in steps that are kept."""
        return 1.0 - self.launches.trained / self.launches.seconds


def simulate(costs: RunCosts, seed: int = 0) -> SimulatedRun:
    """Simulate a run. The same costs and seed give the same result."""
    window = replace(costs, num_steps=window_steps(costs), pauses=Pauses())
    steps = simulate_steps(window, seed)

    @cache
    def step_seconds(num_teachers: int) -> float:
        if num_teachers == costs.num_teachers:
            return steps.steady()
        return _with_teachers(window, num_teachers, steps.steady(), seed)

    launches = simulate_launches(costs, step_seconds, seed)
    busy = sum(steps.teacher_busy) / len(steps.teacher_busy)
    return SimulatedRun(
        step_seconds=steps.steady(),
        teacher_wait_seconds=steps.steady_wait(),
        teacher_busy=busy,
        tokens_per_second=costs.num_steps * costs.step_tokens / launches.seconds,
        launches=launches,
    )


def window_steps(costs: RunCosts) -> int:
    """Return the number of steps that the step model follows."""
    requests_per_step = costs.num_students * costs.num_micro_batches
    steps = max(LEAST_STEPS, min(MOST_STEPS, REQUESTS // requests_per_step))
    return min(steps, max(costs.num_steps, LEAST_STEPS))


def _with_teachers(window: RunCosts, num_teachers: int, steady: float, seed: int) -> float:
    """Return the seconds of a step while some teachers are away; never less than with all."""
    some = replace(window, num_teachers=num_teachers, num_steps=LEAST_STEPS)
    return max(steady, simulate_steps(some, seed).steady())

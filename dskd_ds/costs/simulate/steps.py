"""The step model: follows every request of some steps of a run."""

from __future__ import annotations

import random
import statistics
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import simpy

from dskd_ds.costs.simulate.link import StudentLink, Teacher, spread
from dskd_ds.costs.simulate.run_costs import RunCosts


@dataclass(frozen=True)
class SimulatedStep:
    """One step of all students, in seconds."""

    seconds: float
    teacher_wait: float
    """Of the student that waited longest."""


@dataclass(frozen=True)
class SimulatedSteps:
    """Some steps of a run."""

    steps: list[SimulatedStep]
    seconds: float
    """From the first request to the end of the last step."""
    teacher_busy: list[float]
    """Share of the time in which each teacher computed."""

    def steady(self) -> float:
        """Return the mean seconds of a step in the second half, when the buffers have settled."""
        half = self.steps[len(self.steps) // 2 :]
        return statistics.fmean(step.seconds for step in half)

    def steady_wait(self) -> float:
        """Return the mean wait for teachers in the second half."""
        half = self.steps[len(self.steps) // 2 :]
        return statistics.fmean(step.teacher_wait for step in half)


def simulate_steps(costs: RunCosts, seed: int = 0) -> SimulatedSteps:
    """Simulate all `costs.num_steps` steps of the students with their teachers.

    Pauses are left out (launches.py adds them). Raises RuntimeError if the students wait for ever,
    because every teacher was killed.
    """
    env = simpy.Environment()
    draw = random.Random(seed)
    teachers = [Teacher(env, costs, number, draw) for number in range(costs.num_teachers)]
    links = [StudentLink(env, costs, rank, teachers) for rank in range(costs.num_students)]
    steps: list[SimulatedStep] = []
    training = env.process(_train(env, costs, links, draw, steps))
    env.run(until=training)
    busy = [teacher.busy_seconds / env.now for teacher in teachers]
    return SimulatedSteps(steps, seconds=float(env.now), teacher_busy=busy)


def _train(
    env: simpy.Environment,
    costs: RunCosts,
    links: list[StudentLink],
    draw: random.Random,
    steps: list[SimulatedStep],
) -> Generator[simpy.Event, Any, None]:
    """Run the students' steps. They begin together, because each step has collectives."""
    num_sent = 0
    factors = [costs.slow_students.get(rank, 1.0) for rank in range(costs.num_students)]
    for step in range(costs.num_steps):
        started = float(env.now)
        # As student/replies/feed.py: the requests of the current step and of `prefetch_depth` more.
        while num_sent <= min(step + costs.prefetch_depth, costs.num_steps - 1):
            for link in links:
                link.request(num_sent)
            num_sent += 1
        yield env.all_of(pending(links, step))
        waited = float(env.now) - started
        slowest = max(factor * spread(draw, costs.jitter) for factor in factors)
        yield env.timeout(costs.own * slowest)
        steps.append(SimulatedStep(float(env.now) - started, waited))


def pending(links: list[StudentLink], step: int) -> list[simpy.Event]:
    """Return the events of the students whose replies are not all here yet."""
    return [link.arrived(step) for link in links if link.is_waiting_for(step)]

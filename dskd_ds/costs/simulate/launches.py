"""The run model: whole steps, saves, failures and restarts of a run, over hours or weeks.

A failure of a student's GPU or node ends the launch: the steps since the newest checkpoint are
trained again after the restart, and a failure during the restart begins it anew. A teacher's
failure costs only its work until it is back.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import simpy

from dskd_ds.costs.simulate.link import after
from dskd_ds.costs.simulate.run_costs import Pauses, RunCosts


@dataclass(frozen=True)
class SimulatedLaunches:
    """Where the time of a run went, in seconds."""

    seconds: float
    trained: float
    """In steps that were kept."""
    repeated: float
    """In steps, and saves, that a failure undid or broke off."""
    saved: float
    """Stopped by saves."""
    restarted: float
    """From failures to the next step."""
    without_teachers: float
    """No teacher was left."""
    num_failures: int
    num_teacher_failures: int


@dataclass
class _Clock:
    """Sums of seconds by kind since the start, and since the newest checkpoint."""

    trained: float = 0.0
    repeated: float = 0.0
    saved: float = 0.0
    restarted: float = 0.0
    without_teachers: float = 0.0


class _Run:
    """A run that is simulated."""

    def __init__(
        self, costs: RunCosts, step_seconds: Callable[[int], float], draw: random.Random
    ) -> None:
        """step_seconds: of a step with so many teachers, of at least one."""
        self.env = simpy.Environment()
        self.clock = _Clock()
        self.num_failures = self.num_teacher_failures = 0
        self._costs, self._pauses, self._draw = costs, costs.pauses, draw
        self._step_seconds = step_seconds
        self._num_alive = costs.num_teachers
        self._teacher_is_back = self.env.event()
        self._done = self._safe = 0
        """Steps that are done, and those that a checkpoint holds."""
        self._since_safe = 0.0
        """Seconds of training since the newest checkpoint."""
        self._last_save = self._written_at = 0.0
        self.training = self.env.process(self._train())
        if self._pauses.failure_interval:
            self.env.process(self._fail_launches(self._pauses.failure_interval))
        if self._pauses.teacher_failure_interval:
            for _ in range(costs.num_teachers):
                self.env.process(self._fail_teacher(self._pauses))

    def _train(self) -> Generator[simpy.Event, Any, None]:
        """Train until all steps are done, however often the launch fails."""
        while self._done < self._costs.num_steps:
            try:
                while self._done < self._costs.num_steps:
                    yield from self._step()
            except simpy.Interrupt:
                yield from self._restart()
        self.clock.trained += self._since_safe

    def _step(self) -> Generator[simpy.Event, Any, None]:
        """Train one step, and save if a save is due."""
        while not self._num_alive:
            waiting_since = float(self.env.now)
            try:
                yield self._teacher_is_back
            finally:
                self.clock.without_teachers += float(self.env.now) - waiting_since
        started = float(self.env.now)
        try:
            yield self.env.timeout(self._step_seconds(self._num_alive))
        except simpy.Interrupt:
            self.clock.repeated += float(self.env.now) - started
            raise
        self._since_safe += float(self.env.now) - started
        self._done += 1
        if self._is_save_due():
            yield from self._save()

    def _is_save_due(self) -> bool:
        steps, seconds = self._pauses.save_every_steps, self._pauses.save_every_seconds
        by_steps = steps > 0 and self._done % steps == 0
        by_time = seconds > 0 and float(self.env.now) - self._last_save >= seconds
        return (by_steps or by_time) and self._done < self._costs.num_steps

    def _save(self) -> Generator[simpy.Event, Any, None]:
        """Write a checkpoint; with an asynchronous one, training goes on before it is written.

        A save waits until the one before it is written.
        """
        started = float(self.env.now)
        blocked = max(0.0, self._written_at - started) + self._pauses.save_blocks
        try:
            yield self.env.timeout(blocked)
        except simpy.Interrupt:
            self.clock.repeated += float(self.env.now) - started
            raise
        self.clock.saved += blocked
        self._last_save = float(self.env.now)
        held, trained, failures = self._done, self._since_safe, self.num_failures
        remaining = max(0.0, self._pauses.save_written - self._pauses.save_blocks)
        self._written_at = float(self.env.now) + remaining
        if remaining:
            after(self.env, remaining, lambda: self._hold(held, trained, failures))
        else:
            self._hold(held, trained, failures)

    def _hold(self, num_steps: int, trained: float, num_failures: int) -> None:
        """A checkpoint is written, unless the launch failed meanwhile."""
        if num_failures != self.num_failures:
            return
        self._safe = num_steps
        self.clock.trained += trained
        self._since_safe -= trained

    def _restart(self) -> Generator[simpy.Event, Any, None]:
        """Lose the steps since the newest checkpoint, and start again."""
        self.clock.repeated += self._since_safe
        self._since_safe = 0.0
        self._done = self._safe
        self._written_at = 0.0
        while True:
            started = float(self.env.now)
            try:
                yield self.env.timeout(self._pauses.restart)
            except simpy.Interrupt:
                self.clock.restarted += float(self.env.now) - started
                continue
            self.clock.restarted += self._pauses.restart
            self._last_save = float(self.env.now)
            return

    def _fail_launches(self, interval: float) -> Generator[simpy.Event, Any, None]:
        while True:
            yield self.env.timeout(self._draw.expovariate(1 / interval))
            if self.training.is_alive:
                self.num_failures += 1
                self.training.interrupt()

    def _fail_teacher(self, pauses: Pauses) -> Generator[simpy.Event, Any, None]:
        assert pauses.teacher_failure_interval
        while True:
            yield self.env.timeout(self._draw.expovariate(1 / pauses.teacher_failure_interval))
            self._num_alive -= 1
            self.num_teacher_failures += 1
            yield self.env.timeout(pauses.teacher_return)
            self._num_alive += 1
            self._teacher_is_back.succeed()
            self._teacher_is_back = self.env.event()


def simulate_launches(
    costs: RunCosts, step_seconds: Callable[[int], float], seed: int = 0
) -> SimulatedLaunches:
    """Simulate a whole run. step_seconds: of a step with so many teachers, of at least one."""
    run = _Run(costs, step_seconds, random.Random(seed))
    run.env.run(until=run.training)
    clock = run.clock
    return SimulatedLaunches(
        seconds=float(run.env.now),
        trained=clock.trained,
        repeated=clock.repeated,
        saved=clock.saved,
        restarted=clock.restarted,
        without_teachers=clock.without_teachers,
        num_failures=run.num_failures,
        num_teacher_failures=run.num_teacher_failures,
    )

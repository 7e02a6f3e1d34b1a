"""The requests between simulated students and teachers, as the real ledger sends them.

Each student gives a waiting request to the teacher with free credits that should answer first, as
its earlier answers tell; of several, to the one that it asked longest ago (`link/ledger.py`). A
teacher computes one request at a time, in the order in which they come, and a student receives one
reply at a time. Requests of a killed teacher wait again, ahead of others, once it is noticed.
"""

from __future__ import annotations

import heapq
import math
import random
import zlib
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import simpy

from dskd_ds.costs.simulate.run_costs import RunCosts

Job = tuple[int, int, int]
"""Student, step, number of its micro-batch in the step."""


class Teacher:
    """Computes requests in their order."""

    def __init__(
        self, env: simpy.Environment, costs: RunCosts, number: int, draw: random.Random
    ) -> None:
        self._env, self._costs, self._draw = env, costs, draw
        self._seconds = costs.teacher * costs.slow_teachers.get(number, 1.0)
        self._inbox: simpy.Store = simpy.Store(env)
        self.number = number
        self.is_alive = True
        self.busy_seconds = 0.0
        env.process(self._serve())
        if number in costs.killed_teachers:
            after(env, costs.killed_teachers[number], self._kill)

    def ask(self, job: Job, answered: Callable[[Job], None]) -> None:
        """Take a request; `answered` is called when its reply reaches the student's link."""
        self._inbox.put((job, answered))

    def _kill(self) -> None:
        self.is_alive = False

    def _serve(self) -> Generator[simpy.Event, Any, None]:
        while True:
            job, answered = yield self._inbox.get()
            seconds = self._seconds * spread(self._draw, self._costs.jitter)
            yield self._env.timeout(seconds)
            if not self.is_alive:
                return
            self.busy_seconds += seconds
            on_the_way = self._costs.transfer - self._costs.receiving
            after(self._env, on_the_way, partial(answered, job))


class StudentLink:
    """One student's requests."""

    def __init__(
        self, env: simpy.Environment, costs: RunCosts, student: int, teachers: list[Teacher]
    ) -> None:
        self._env, self._costs = env, costs
        self._student = student
        self._teachers = teachers
        self._in_flight: dict[int, dict[Job, float]] = {one.number: {} for one in teachers}
        """Teacher -> its requests, and when they were sent."""
        self._round_trips = dict.fromkeys(self._in_flight, 0.0)
        self._waiting: deque[Job] = deque()
        self._turns = {number: first_turn(number, student) for number in self._in_flight}
        self._num_asked = 0
        self._free_at = 0.0
        """When the replies that have reached this link are received."""
        self._order = [self._entry(number) for number in self._in_flight]
        """A heap of entries; one that is no teacher's present entry is out of date."""
        heapq.heapify(self._order)
        self._missing: dict[int, int] = {}
        self._arrived: dict[int, simpy.Event] = {}
        for number, at in costs.killed_teachers.items():
            after(env, at + costs.notice, partial(self._lose, number))

    def request(self, step: int) -> None:
        """Send the requests of a step."""
        self._missing[step] = self._costs.num_micro_batches
        self._arrived[step] = self._env.event()
        self._waiting.extend(
            (self._student, step, micro) for micro in range(self._costs.num_micro_batches)
        )
        self._dispatch()

    def is_waiting_for(self, step: int) -> bool:
        """Whether replies of a step that was asked for are missing."""
        return step in self._arrived

    def arrived(self, step: int) -> simpy.Event:
        """Return the event that all replies of a step are here, while it is waited for."""
        return self._arrived[step]

    def _dispatch(self) -> None:
        while self._waiting:
            number = self._soonest()
            if number is None:
                return
            job = self._waiting.popleft()
            self._in_flight[number][job] = float(self._env.now)
            self._num_asked += 1
            self._turns[number] = self._num_asked
            heapq.heappush(self._order, self._entry(number))
            self._teachers[number].ask(job, partial(self._receive, number))

    def _soonest(self) -> int | None:
        """Return the teacher that should answer first; None if none may get a request."""
        while self._order:
            number = self._order[0][2]
            if number in self._in_flight and self._order[0] == self._entry(number):
                may_get_more = len(self._in_flight[number]) < self._costs.credits
                return number if may_get_more else None
            heapq.heappop(self._order)
        return None

    def _entry(self, number: int) -> tuple[float, int, int]:
        """Return a teacher's place in the order of asking; last, if it may get no request."""
        num_held = len(self._in_flight[number])
        if num_held >= self._costs.credits:
            return math.inf, self._turns[number], number
        return (num_held + 1) * self._round_trips[number], self._turns[number], number

    def _receive(self, number: int, job: Job) -> None:
        """Receive a reply after those that came before it."""
        if not self._costs.receiving:
            self._answer(number, job)
            return
        now = float(self._env.now)
        self._free_at = max(now, self._free_at) + self._costs.receiving
        after(self._env, self._free_at - now, partial(self._answer, number, job))

    def _answer(self, number: int, job: Job) -> None:
        in_flight = self._in_flight.get(number, {})
        if job not in in_flight:  # late: the teacher was given up
            return
        seconds = float(self._env.now) - in_flight.pop(job)
        earlier = self._round_trips[number]
        self._round_trips[number] = (earlier + seconds) / 2 if earlier else seconds
        heapq.heappush(self._order, self._entry(number))
        step = job[1]
        self._missing[step] -= 1
        if not self._missing[step]:
            del self._missing[step]
            self._arrived.pop(step).succeed()
        self._dispatch()

    def _lose(self, number: int) -> None:
        """Give up a teacher: what it held waits again, ahead of what was never sent."""
        self._waiting.extendleft(reversed(self._in_flight.pop(number, {})))
        self._dispatch()


def after(env: simpy.Environment, seconds: float, action: Callable[[], None]) -> None:
    """Call something later. An event costs less than a process."""
    event = env.timeout(seconds)
    assert event.callbacks is not None
    event.callbacks.append(lambda _: action())


def first_turn(number: int, student: int) -> int:
    """Return the turn of a teacher that was never asked: before all others, in any order.

    The order differs between students. Otherwise all would begin with the same teacher.
    """
    return -1 - zlib.crc32(f"{number}/{student}".encode())


def spread(draw: random.Random, jitter: float) -> float:
    """Return a factor whose logarithm has the standard deviation `jitter` and the mean 0."""
    return draw.lognormvariate(0.0, jitter) if jitter else 1.0

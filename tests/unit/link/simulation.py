"""Both ends of the link in simulated time: students that consume replies in order, and teachers."""

from __future__ import annotations

import random
from collections import deque
from concurrent.futures import Future

import numpy as np

from dskd_ds.link.admission import Admission
from dskd_ds.link.jobs import Answer, Jobs
from dskd_ds.link.keys import Endpoint
from dskd_ds.link.student_protocol import StudentProtocol
from dskd_ds.link.teacher_protocol import Surroundings, TeacherProtocol
from dskd_ds.link.work import Work, reply_frames
from dskd_ds.spec.processes import LinkSpec
from tests.unit.link.network import Faults, Network, Unreliable
from tests.unit.link.test_link import ARRAYS, WANTED, hello, reply_arrays

DEPTH = 4
"""Requests that a student has sent and not consumed."""


class Student:
    """Sends numbered requests and takes the answers in their order."""

    def __init__(self, world: World, rank: int, num_requests: int) -> None:
        self.world, self.rank, self.num_requests = world, rank, num_requests
        self.listener = world.network.listener()
        self.jobs = Jobs(f"student {rank}", 1 << 30, on_added=self.listener.wake)
        self.protocol = StudentProtocol(
            world.spec,
            name=f"student {rank}",
            num_students=world.num_students,
            transport=world.unreliable(self.listener),
            jobs=self.jobs,
            admission=Admission(9, 4),
            clock=world.clock,
        )
        self.pending: deque[Future[Answer]] = deque()
        self.num_sent = 0
        self.consumed: list[int] = []
        """What the answers said, in the order in which they were consumed."""

    @property
    def expected(self) -> list[int]:
        return [self.number_of(index) for index in range(self.num_requests)]

    def number_of(self, index: int) -> int:
        return 1000 * (self.rank + 1) + index

    def turn(self) -> None:
        while len(self.pending) < DEPTH and self.num_sent < self.num_requests:
            ids = np.full((1, 4), self.number_of(self.num_sent), np.int32)
            self.pending.append(self.jobs.add(ARRAYS | {"input_ids": ids}, WANTED, 600))
            self.num_sent += 1
        self.protocol.turn(0.0)
        while self.pending and self.pending[0].done():
            answer = self.pending.popleft().result()
            self.consumed.append(int(answer.arrays["tail"][0, 0]))


class Teacher:
    """Answers one request after the other; each takes some simulated time."""

    def __init__(
        self,
        world: World,
        name: str,
        forward_seconds: float = 0.5,
        waits_for_restart: bool = True,
    ) -> None:
        self.is_stop_wanted = False
        self.world, self.forward_seconds = world, forward_seconds
        self.dialer = world.network.dialer()
        self.queue: deque[Work] = deque()
        self.num_computed = 0
        self.busy_until = world.now
        self.frozen_until = world.now
        around = Surroundings(
            transport=world.unreliable(self.dialer),
            endpoints=world.endpoints,
            take_work=self.queue.append,
            clock=world.clock,
        )
        self.protocol = TeacherProtocol(
            world.spec,
            hello(name),
            around,
            num_students=world.num_students,
            waits_for_restart=waits_for_restart,
            is_stop_wanted=lambda: self.is_stop_wanted,
        )

    def turn(self) -> None:
        if self.world.now < self.frozen_until:
            return
        while self.queue and self.busy_until <= self.world.now:
            work = self.queue.popleft()
            if not self.protocol.is_wanted(work):
                continue
            self.num_computed += 1
            self.busy_until = self.world.now + self.forward_seconds
            number = work.arrays["input_ids"][0, 0]
            arrays = reply_arrays(1) | {"tail": np.full((3, 1), number, np.float32)}
            self.protocol.queue_reply(
                work, reply_frames(work, arrays, self.forward_seconds, 1 << 30)
            )
        self.protocol.turn(0.0)


class World:
    """All processes of one simulated run, its network and its clock."""

    def __init__(
        self, seed: int, faults: Faults, spec: LinkSpec, num_students: int, num_requests: int
    ) -> None:
        self.draw = random.Random(seed)
        self.faults, self.spec, self.num_students = faults, spec, num_students
        self.now = 0.0
        self.network = Network()
        self.proxies: list[Unreliable] = []
        self.teachers: list[Teacher] = []
        self.strangers: dict[int, Endpoint] = {}
        """Endpoints of students that are not simulated, by rank."""
        self.students = [Student(self, rank, num_requests) for rank in range(num_students)]

    def clock(self) -> float:
        return self.now

    def unreliable(self, transport: object) -> Unreliable:
        self.proxies.append(Unreliable(transport, self.faults, self.draw, self.clock))
        return self.proxies[-1]

    def endpoints(self) -> dict[int, Endpoint]:
        simulated = {student.rank: student.listener.endpoint for student in self.students}
        return simulated | self.strangers

    def add_teacher(
        self, name: str, forward_seconds: float = 0.5, waits_for_restart: bool = True
    ) -> Teacher:
        self.teachers.append(Teacher(self, name, forward_seconds, waits_for_restart))
        return self.teachers[-1]

    def kill(self, teacher: Teacher) -> None:
        """A teacher ends without a goodbye."""
        self.teachers.remove(teacher)
        teacher.dialer.close()

    @property
    def is_done(self) -> bool:
        return all(student.consumed == student.expected for student in self.students)

    def step(self, seconds: float = 0.25) -> None:
        """Let a moment pass, in which everybody gets a turn, in random order."""
        self.now += seconds
        parties: list[Student | Teacher] = [*self.students, *self.teachers]
        self.draw.shuffle(parties)
        for party in parties:
            party.turn()

    def run(self, most_seconds: float = 20_000.0) -> None:
        """Go on until every student has consumed all its answers."""
        end = self.now + most_seconds
        while not self.is_done:
            self.step()
            assert self.now < end, "the students wait without end"

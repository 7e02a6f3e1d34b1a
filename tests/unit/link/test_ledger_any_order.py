"""The ledger in any order of events: no request is lost, doubled, or given to a wrong teacher."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dskd_ds.link.decisions import Event, Failed, Lost, Send
from dskd_ds.link.ledger import Ledger
from dskd_ds.link.open_job import MOST_ENDED
from dskd_ds.link.present import Credits
from tests.unit.link.test_ledger import LIMITS


class AnyOrder(RuleBasedStateMachine):
    """Events in any order against a model: where each request is."""

    @initialize()
    def start(self) -> None:
        self.ledger = Ledger(LIMITS, now=0.0)
        self.now = 0.0
        self.next_job = 0
        self.open: set[int] = set()
        self.flying: dict[int, bytes] = {}
        self.credits: dict[bytes, Credits] = {}
        self.sizes: dict[int, int] = {}
        self.refused: dict[int, set[bytes]] = {}
        self.num_ended: Counter[int] = Counter()

    def note(self, events: list[Event] | list[Send]) -> None:
        for event in events:
            if isinstance(event, Send):
                assert event.job_id in self.open
                assert event.job_id not in self.flying
                assert event.teacher not in self.refused.get(event.job_id, set())
                self.flying[event.job_id] = event.teacher
                self.check_credits(event.teacher)
            elif isinstance(event, Failed) and event.has_ended_teachers:
                assert self.num_ended[event.job_id] == MOST_ENDED
                self.open.remove(event.job_id)
            elif isinstance(event, Failed):
                assert self.refused[event.job_id] >= set(self.ledger.teachers)
                self.open.remove(event.job_id)
            elif isinstance(event, Lost):
                assert self.flying.pop(event.job_id).decode() == event.name
            else:
                del self.credits[event.teacher]
                held = [job for job, teacher in self.flying.items() if teacher == event.teacher]
                assert len(held) == event.num_waiting
                for job in held:
                    del self.flying[job]

    def check_credits(self, teacher: bytes) -> None:
        held = [job for job, holder in self.flying.items() if holder == teacher]
        limit = self.credits[teacher]
        assert len(held) <= limit.num_requests
        num_bytes = sum(self.sizes[job] for job in held)
        assert len(held) == 1 or not limit.num_bytes or num_bytes <= limit.num_bytes

    @rule(num_bytes=st.integers(0, 50))
    def add(self, num_bytes: int) -> None:
        self.ledger.add(self.next_job, num_bytes)
        self.open.add(self.next_job)
        self.sizes[self.next_job] = num_bytes
        self.next_job += 1

    @rule(
        teacher=st.sampled_from([b"a", b"b", b"c"]),
        num_requests=st.integers(1, 3),
        num_bytes=st.sampled_from([0, 20, 60]),
    )
    def join(self, teacher: bytes, num_requests: int, num_bytes: int) -> None:
        if self.ledger.ban_reason(teacher.decode()):
            return  # the link does not let it in
        credits = Credits(num_requests, num_bytes)
        self.note(self.ledger.join(teacher, teacher.decode(), credits, self.now))
        self.credits[teacher] = credits

    @rule()
    def dispatch(self) -> None:
        self.note(self.ledger.dispatch(self.now))

    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        teacher = data.draw(st.sampled_from([b"a", b"b", b"c"]))
        job = data.draw(st.integers(0, max(self.next_job, 1)))
        is_right = self.flying.get(job) == teacher
        assert self.ledger.answer(teacher, job, 0.1, self.now) == is_right
        if is_right:
            del self.flying[job]
            self.open.remove(job)

    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        if not self.flying:
            return
        job = data.draw(st.sampled_from(sorted(self.flying)))
        teacher = self.flying.pop(job)
        self.refused.setdefault(job, set()).add(teacher)
        self.note(self.ledger.refuse(teacher, job, "no", self.now))

    @rule(teacher=st.sampled_from([b"a", b"b", b"c"]), banned=st.booleans())
    def remove(self, teacher: bytes, banned: bool) -> None:
        self.note(self.ledger.ban(teacher, "x") if banned else self.ledger.leave(teacher, "x"))

    @rule(data=st.data())
    def break_down(self, data: st.DataObject) -> None:
        if not self.flying:
            return
        job = data.draw(st.sampled_from(sorted(self.flying)))
        self.num_ended[job] += 1
        self.note(self.ledger.break_down(self.flying[job], job, "lost"))
        assert job not in self.open or self.num_ended[job] < MOST_ENDED

    @rule(teacher=st.sampled_from([b"a", b"b", b"c"]), data=st.data())
    def ping(self, teacher: bytes, data: st.DataObject) -> None:
        held = data.draw(st.sets(st.integers(0, max(self.next_job, 1))))
        self.ledger.note_sign_of_life(teacher, self.now, num_done=0)
        self.ledger.note_held(teacher, held, self.now)

    @rule(seconds=st.sampled_from([0.5, 4.0, 11.0, 100.0]))
    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.note(self.ledger.tick(self.now))

    @invariant()
    def every_request_is_somewhere(self) -> None:
        if hasattr(self, "ledger"):
            assert self.ledger.num_open == len(self.open)
            assert set(self.flying) <= self.open

    def teardown(self) -> None:
        """A fresh teacher that answers everything empties the ledger."""
        if not hasattr(self, "ledger"):
            return
        self.ledger.join(b"last", "last", Credits(1), self.now)
        self.credits[b"last"] = Credits(1)
        while self.open:
            for teacher in [t for t in self.ledger.teachers if t != b"last"]:
                self.note(self.ledger.leave(teacher, "end"))
            self.note(self.ledger.dispatch(self.now))
            job = next(iter(self.flying))
            assert self.ledger.answer(b"last", job, 0.1, self.now)
            del self.flying[job]
            self.open.remove(job)


TestAnyOrder = pytest.mark.filterwarnings("ignore")(AnyOrder.TestCase)
TestAnyOrder.settings = settings(max_examples=200, stateful_step_count=40)

"""Decides which teacher gets which request, and when a teacher or a request has failed.

A pure state machine: the clock is an argument, and what must be done comes back as events. It knows
no sockets, threads or files, so that tests can drive it through any order of events.

A request is waiting, or in flight with one teacher, or done. If its teacher refuses it, leaves,
falls silent or hangs, or if it was lost on its way, the request waits again, ahead of those that
were never sent; a teacher does not get a request twice that it refused. A request fails only when
every teacher that is present has refused it, or when several broke down one after the other while
they computed it (open_job.py).

A teacher's credits say how many requests, and how many bytes of requests and replies, it may have
in flight. They are limits and not counters, so no message that repeats or gets lost changes them.
"""

from __future__ import annotations

import statistics
import zlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from dskd_ds.link.decisions import Event, Lost, Removed, Send
from dskd_ds.link.open_job import OpenJob
from dskd_ds.link.patience import Patience
from dskd_ds.link.present import Credits, PresentTeacher

REFUSALS_IN_A_ROW = 3
"""A teacher that refuses so many requests in a row gets no more, if there is another teacher."""
FORWARD_TIMES = 64
"""How many of the last forward times the median is taken over."""
HANGS = ", but is alive: it hangs, or needs longer (then raise [link] deadline_seconds)"


@dataclass(frozen=True)
class Limits:
    """When a teacher counts as failed. All times are in seconds."""

    dead_after: float
    """Silence after which a teacher counts as lost; also how long a living teacher may not name a
    request as held before the request counts as lost. Both are longer for a teacher that was lost
    before it could answer (patience.py). If this side stood still for longer than that, the pause
    is not counted."""
    deadline: float
    """Least time without any progress after which a teacher that holds a request counts as hung."""
    deadline_factor: float
    """The same, in medians of the forward times seen so far; the larger limit holds."""


class Ledger:
    """The requests of one student, and the teachers that answer them."""

    def __init__(self, limits: Limits, now: float, student: str = "") -> None:
        """student: the name of this student; it decides which teacher is asked first."""
        self._limits, self._student = limits, student
        self._num_sent = 0
        self._jobs: dict[int, OpenJob] = {}
        self._waiting: deque[int] = deque()
        self._teachers: dict[bytes, PresentTeacher] = {}
        self._patience = Patience(limits.dead_after)
        self._banned: dict[str, str] = {}
        self._forward_times: deque[float] = deque(maxlen=FORWARD_TIMES)
        self._last_tick = now

    @property
    def teachers(self) -> list[bytes]:
        """The teachers that may get requests, in the order in which they came."""
        return list(self._teachers)

    def name_of(self, teacher: bytes) -> str | None:
        """Return a teacher's name; None if it is not present."""
        found = self._teachers.get(teacher)
        return found.name if found else None

    def ban_reason(self, name: str) -> str | None:
        """Return why the teacher of this name must not come back; None if it may."""
        return self._banned.get(name)

    @property
    def num_open(self) -> int:
        """Requests that are not answered yet."""
        return len(self._jobs)

    def deadline(self) -> float:
        """Return the longest time without progress that a teacher may take, in seconds."""
        if not self._forward_times:
            return self._limits.deadline
        median = statistics.median(self._forward_times)
        return max(self._limits.deadline, self._limits.deadline_factor * median)

    def add(self, job_id: int, num_bytes: int = 0) -> None:
        """A new request waits for a teacher. num_bytes: of it and, at most, of its reply."""
        self._jobs[job_id] = OpenJob(num_bytes)
        self._waiting.append(job_id)

    def join(self, teacher: bytes, name: str, credits: Credits, now: float) -> list[Event]:
        """A teacher is present. What it held over an earlier connection waits for any teacher."""
        events: list[Event] = []
        for earlier, found in list(self._teachers.items()):
            if earlier == teacher or found.name == name:
                events += self._take_out(earlier, "has connected again", is_banned=False)
        self._teachers[teacher] = PresentTeacher(
            name,
            credits,
            last_seen=now,
            last_progress=now,
            last_named=now,
            turn=_first_turn(name, self._student),
        )
        return events

    def note_sign_of_life(self, teacher: bytes, now: float, num_done: int | None = None) -> None:
        """A message came from a teacher. num_done: of its heartbeat, if it is one."""
        found = self._teachers.get(teacher)
        if found is None:
            return
        found.note_seen(now)
        if num_done is not None and num_done != found.num_done:
            found.num_done, found.last_progress = num_done, now

    def note_held(self, teacher: bytes, job_ids: Iterable[int], now: float) -> None:
        """A teacher's heartbeat names the requests that it holds; others may have been lost."""
        found = self._teachers.get(teacher)
        if found:
            found.note_held(job_ids, now)

    def answer(self, teacher: bytes, job_id: int, forward_seconds: float, now: float) -> bool:
        """A teacher has answered. Returns False for a late reply, which must be dropped."""
        found = self._teachers.get(teacher)
        if found is None or job_id not in found.in_flight:
            return False
        del self._jobs[job_id]
        self._patience.note_answer(found.name, found.longest_silence)
        found.note_answer(job_id, now)
        self._forward_times.append(forward_seconds)
        return True

    def refuse(self, teacher: bytes, job_id: int, reason: str, now: float) -> list[Event]:
        """A teacher could not answer a request: another one may try."""
        found = self._teachers.get(teacher)
        if found is None or job_id not in found.in_flight:
            return []
        del found.in_flight[job_id]
        found.last_progress = now
        found.refusals_in_a_row += 1
        self._jobs[job_id].refusals[found.name] = reason
        self._waiting.appendleft(job_id)
        events: list[Event] = []
        others = len(self._teachers) > 1
        if others and found.refusals_in_a_row >= REFUSALS_IN_A_ROW:
            text = f"refused {REFUSALS_IN_A_ROW} requests in a row, the last one because: {reason}"
            events += self.ban(teacher, text)
        return events + self._fail_hopeless_jobs()

    def break_down(self, teacher: bytes, job_id: int, reason: str) -> list[Event]:
        """A teacher cannot go on, and may be started again. What it computed is not refused.

        job_id: of the request that it computed.
        """
        reason = reason.rstrip(".")  # both messages go on after it
        found = self._teachers.get(teacher)
        if found and job_id in found.in_flight:
            self._jobs[job_id].ended.append(f"teacher {found.name}: {reason}")
        return self._remove(teacher, f"broke down: {reason}", is_banned=False)

    def leave(self, teacher: bytes, reason: str) -> list[Event]:
        """A teacher is gone, and may come back."""
        return self._remove(teacher, reason, is_banned=False)

    def ban(self, teacher: bytes, reason: str) -> list[Event]:
        """A teacher cannot be trusted any more, under this name."""
        if teacher in self._teachers:
            self._banned[self._teachers[teacher].name] = reason
        return self._remove(teacher, reason, is_banned=True)

    def tick(self, now: float) -> list[Event]:
        """Find what was lost, and the teachers that are silent or hang. Call at every heartbeat."""
        self._forgive_own_gap(now)
        events: list[Event] = []
        for teacher, found in list(self._teachers.items()):
            allowed = self._patience.seconds(found.name)
            if now - found.last_seen > allowed:
                events += self._lose_silent(teacher, found, allowed)
            elif found.in_flight and now - found.stuck_since() > self.deadline():
                is_silent = now - found.last_seen > self._limits.dead_after
                cause = self._patience.way_out(found.name) if is_silent else ""
                text = f"has answered nothing for {self.deadline():g} s"
                events += self.ban(teacher, text + (cause or HANGS))
            else:
                events += self._find_lost(found, allowed)
        return events

    def _lose_silent(self, teacher: bytes, found: PresentTeacher, seconds: float) -> list[Event]:
        """Take a silent teacher out. seconds: the silence that it was allowed."""
        text = f"has been silent for {seconds:g} s"
        if found.in_flight:
            text += self._patience.way_out(found.name)
            self._patience.note_loss(found.name)
        return self.leave(teacher, text)

    def dispatch(self, now: float) -> list[Send]:
        """Give waiting requests to the teachers that should answer first, as far as credits go.

        A teacher that has too few bytes left for a request gets no later one before it: otherwise
        small requests could keep a large one waiting without end.
        """
        sends: list[Send] = []
        skipped: list[int] = []
        blocked: set[bytes] = set()
        while self._waiting and len(blocked) < len(self._teachers):
            job_id = self._waiting.popleft()
            job = self._jobs[job_id]
            able = [
                teacher
                for teacher, found in self._teachers.items()
                if teacher not in blocked and found.name not in job.refusals
            ]
            teacher = self._soonest(able, job)
            if teacher is None:
                skipped.append(job_id)
                blocked.update(able)
                continue
            self._num_sent += 1
            self._teachers[teacher].take(job_id, job.num_bytes, now, turn=self._num_sent)
            sends.append(Send(teacher, job_id))
        self._waiting.extendleft(reversed(skipped))
        return sends

    def _soonest(self, teachers: list[bytes], job: OpenJob) -> bytes | None:
        """Return the teacher that should answer first, of those that may get this request.

        That follows from its earlier answers, so a slow one, or one that other students keep busy,
        is asked less often. Of several it is the one that was asked longest ago: a fixed order
        would leave teachers idle if there are more of them than requests of one student.
        """
        present = {teacher: self._teachers[teacher] for teacher in teachers}
        free = [one for one, found in present.items() if found.num_free(job.num_bytes) > 0]
        return min(
            free,
            key=lambda one: (present[one].expected_seconds(), present[one].turn),
            default=None,
        )

    def _find_lost(self, teacher: PresentTeacher, limit: float) -> list[Event]:
        """Take back what a living teacher has not said to hold for so long that it never came."""
        lost = teacher.pop_lost(limit)
        self._put_back(lost)
        return [Lost(job_id, teacher.name) for job_id in lost]

    def _remove(self, teacher: bytes, reason: str, is_banned: bool) -> list[Event]:
        """Take a teacher out; requests that nobody may answer any more fail now."""
        removed = self._take_out(teacher, reason, is_banned)
        return [*removed, *self._fail_hopeless_jobs()] if removed else []

    def _take_out(self, teacher: bytes, reason: str, is_banned: bool) -> list[Event]:
        """Forget a teacher if it is present; what it held waits."""
        found = self._teachers.pop(teacher, None)
        if found is None:
            return []
        self._put_back(found.in_flight)
        return [Removed(teacher, found.name, reason, len(found.in_flight), is_banned)]

    def _put_back(self, job_ids: Iterable[int]) -> None:
        """Requests that were sent wait again, in their order, ahead of all others."""
        self._waiting.extendleft(reversed(list(job_ids)))

    def _fail_hopeless_jobs(self) -> list[Event]:
        """Give up the waiting requests that no teacher may answer any more."""
        names = {found.name for found in self._teachers.values()}
        found = [self._jobs[job_id].failure(job_id, names) for job_id in self._waiting]
        failed = [failure for failure in found if failure]
        for failure in failed:
            self._waiting.remove(failure.job_id)
            del self._jobs[failure.job_id]
        return [*failed]

    def own_gap(self, now: float) -> float:
        """Return how long this process stood still since the last `tick`, in seconds; else 0."""
        gap = now - self._last_tick
        return gap if gap > self._limits.dead_after else 0.0

    def _forgive_own_gap(self, now: float) -> None:
        """Count a pause of this process as nobody's silence: all clocks move on by it."""
        gap = self.own_gap(now)
        self._last_tick = now
        for found in self._teachers.values():
            found.forgive(gap)


def _first_turn(teacher: str, student: str) -> int:
    """Return the turn of a teacher that was never asked: before all others, in any order.

    The order differs between students. Otherwise all would begin with the same teacher.
    """
    return -1 - zlib.crc32(f"{teacher}/{student}".encode())

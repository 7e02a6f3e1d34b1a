"""The teacher's half of the protocol: finds students, takes their requests, sends the replies.

It knows no sockets and no threads: a transport, a clock and the students' endpoints are given to
it, and it does something only in `turn`. Replies may be queued by any thread.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass, field

from dskd_ds.errors import LinkError, NoTeacherError
from dskd_ds.link import codec
from dskd_ds.link.keys import Endpoint
from dskd_ds.link.messages import (
    Array,
    Bye,
    Hello,
    Message,
    Ping,
    Rejected,
    Request,
    TeacherPing,
    Welcome,
    WhoAreYou,
)
from dskd_ds.link.reports import Reports
from dskd_ds.link.transport import Dialer, Frame, Peer, PeerGoneError
from dskd_ds.link.work import Work
from dskd_ds.spec.processes import LinkSpec


@dataclass
class _Student:
    endpoint: Endpoint
    peer: Peer
    last_seen: float
    session: int
    welcomed: bool = False
    held: set[int] = field(default_factory=set)
    """Requests that came in this session and are not answered yet."""


@dataclass(frozen=True)
class Surroundings:
    """What the protocol needs from outside."""

    transport: Dialer
    endpoints: Callable[[], dict[int, Endpoint]]
    """Returns where the students listen now, by rank."""
    take_work: Callable[[Work], None]
    """Gets every request that comes."""
    clock: Callable[[], float]
    """Returns the time in seconds; it never goes back."""


class TeacherProtocol:
    """Connects to each student of a run when it appears, until all have said goodbye."""

    def __init__(
        self,
        spec: LinkSpec,
        hello: Hello,
        around: Surroundings,
        *,
        num_students: int,
        waits_for_restart: bool,
        is_stop_wanted: Callable[[], bool] = lambda: False,
        first_session: int = 0,
    ) -> None:
        """hello: without session and credits, which are added here.

        num_students: of the run, until a student says how many they are. waits_for_restart:
        whether a student that says that it comes back is waited for. is_stop_wanted: whether this
        teacher is to end as soon as no student is connected. first_session: above the sessions of
        every earlier teacher of this name.
        """
        self._spec, self._around, self._transport = spec, around, around.transport
        self._hello = hello.model_copy(
            update={"credit_requests": spec.credits, "credit_bytes": spec.credit_bytes}
        )
        self._num_students, self._waits_for_restart = num_students, waits_for_restart
        self._is_stop_wanted, self._is_stopped = is_stop_wanted, False
        self._next_session = first_session
        self._students: dict[int, _Student] = {}
        self._ranks: dict[Peer, int] = {}
        self._gone: dict[int, Endpoint] = {}
        """Where each student listened that has said goodbye: it is not greeted there again."""
        self._finished: set[int] = set()
        """Students that do not come back."""
        self.rejections: dict[int, str] = {}
        """Why a student takes no replies from this teacher, by rank."""
        self._reports = Reports(f"teacher {hello.teacher}")
        self._num_done = 0
        """Requests answered or refused, of all students; heartbeats carry it."""
        self._outbox: queue.SimpleQueue[tuple[Work, list[Frame]]] = queue.SimpleQueue()
        now = around.clock()
        self._next_heartbeat = self._last_heartbeat = self._without_student_since = now

    @property
    def is_finished(self) -> bool:
        """Whether all students have said goodbye and do not come back, or this teacher is to stop
        and none is connected."""
        return self._is_stopped or self._finished >= set(range(self._num_students))

    def turn(self, timeout_seconds: float) -> None:
        """Wait for messages, at most so long, and act on what came and on what is due.

        Raises NoTeacherError if no student has listened for too long.
        """
        for received in self._transport.poll(timeout_seconds):
            rank = self._ranks.get(received.peer)
            # An earlier message may have ended the session that this one came in.
            if rank is not None:
                self._handle(rank, self._students[rank], received.frames)
        self._send_outbox()
        now = self._around.clock()
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + self._spec.heartbeat_seconds
            self._forgive_own_gap(now - self._last_heartbeat)
            self._last_heartbeat = now
            self._look_for_students()
            self._heartbeat(now)

    def queue_reply(self, work: Work, frames: list[Frame]) -> None:
        """Send a Reply or a Failure in the next turn. Any thread may call this."""
        self._outbox.put((work, frames))
        self._transport.wake()

    def is_wanted(self, work: Work) -> bool:
        """Return whether the student that sent a request still waits for its reply.

        Any thread may call this.
        """
        # A single look-up in a dict needs no lock.
        student = self._students.get(work.student_rank)
        return student is not None and student.session == work.session

    def say_goodbye(self) -> None:
        """Tell all students that this teacher ends, after what is still to be sent."""
        self._send_outbox()
        for rank in list(self._students):
            self._send(rank, Bye())

    def _forgive_own_gap(self, gap: float) -> None:
        """Count a pause of this process (SIGSTOP, a frozen machine) as nobody's silence."""
        if gap <= self._spec.dead_after_seconds:
            return
        self._without_student_since += gap
        for student in self._students.values():
            student.last_seen += gap

    def _handle(self, rank: int, student: _Student, frames: list[Frame]) -> None:
        """Act on one message. An invalid one ends the sender's session; a new one follows."""
        peer = f"student {rank} at {student.endpoint.address}"
        try:
            message, arrays = codec.decode(frames, peer)
            if not isinstance(message, Welcome | Request | Ping | Bye | WhoAreYou | Rejected):
                kind = type(message).__name__
                raise LinkError(f"{peer} sent a {kind}, which only teachers send.")
        except LinkError as error:
            self._reports.add(str(error))
            self._drop(rank)
            return
        student.last_seen = self._around.clock()
        if isinstance(message, Welcome):
            student.welcomed, self._num_students = True, message.num_students
            self.rejections.pop(rank, None)  # of a student that was started again since
        elif isinstance(message, Request):
            self._take(rank, student, message, arrays)
        elif isinstance(message, WhoAreYou):
            self._greet(rank, student.endpoint)
        elif isinstance(message, Bye):
            self._part(rank, student, waits=message.is_coming_back and self._waits_for_restart)
        elif isinstance(message, Rejected):
            self.rejections[rank] = message.text
            self._part(rank, student, waits=False)

    def _take(
        self, rank: int, student: _Student, request: Request, arrays: dict[str, Array]
    ) -> None:
        """Queue a request, unless it is a copy, or beyond what a student may send.

        What is dropped here is missing in `held`, so the student sends it again.
        """
        is_copy = request.request_id in student.held
        # Twice: those that the student believes lost on their way may have come after all.
        if is_copy or len(student.held) >= 2 * self._spec.credits:
            return
        student.held.add(request.request_id)
        work = Work(student_rank=rank, request=request, arrays=arrays, session=student.session)
        self._around.take_work(work)

    def _part(self, rank: int, student: _Student, waits: bool) -> None:
        """A student has said goodbye. waits: whether it comes back."""
        # Its address may still be published; it must not be greeted again because of that.
        self._gone[rank] = student.endpoint
        if not waits:
            self._finished.add(rank)
        self._drop(rank)

    def _send_outbox(self) -> None:
        """Send the queued replies."""
        while not self._outbox.empty():
            work, frames = self._outbox.get()
            self._num_done += 1
            if self.is_wanted(work):
                self._students[work.student_rank].held.discard(work.request.request_id)
                self._send_frames(work.student_rank, frames)

    def _look_for_students(self) -> None:
        """Greet every student whose published endpoint is new."""
        for rank, endpoint in self._around.endpoints().items():
            known = self._students.get(rank)
            is_connected = known is not None and known.endpoint == endpoint
            if is_connected or self._gone.get(rank) == endpoint:
                continue
            # A new endpoint is a restarted student: it trains on, even if it had said goodbye.
            self._gone.pop(rank, None)
            self._finished.discard(rank)
            self._greet(rank, endpoint)

    def _greet(self, rank: int, endpoint: Endpoint) -> None:
        """Say hello to a student and start a new session, over a new connection.

        The student's earlier requests are dropped.
        """
        self._drop(rank)
        peer = self._transport.connect(endpoint)
        session, self._next_session = self._next_session, self._next_session + 1
        self._students[rank] = _Student(
            endpoint=endpoint, peer=peer, last_seen=self._around.clock(), session=session
        )
        self._ranks[peer] = rank
        self._send(rank, self._hello.model_copy(update={"session": session}))

    def _heartbeat(self, now: float) -> None:
        """Ping all students and drop the silent ones.

        Without a student, end if a stop is wanted. Raises NoTeacherError after the wait.
        """
        for rank, student in list(self._students.items()):
            if now - student.last_seen > self._spec.dead_after_seconds:
                # It is greeted again while its endpoint is published.
                self._drop(rank)
            elif student.welcomed:
                held = tuple(sorted(student.held))[: 2 * self._spec.credits]
                self._send(rank, TeacherPing(num_done=self._num_done, held=held))
        if any(student.welcomed for student in self._students.values()):
            self._without_student_since = now
        elif self._is_stop_wanted():
            self._is_stopped = True
        elif now - self._without_student_since > self._spec.student_wait_seconds:
            raise NoTeacherError(
                f"teacher {self._hello.teacher}: no student has listened for"
                f" {self._spec.student_wait_seconds:g} s.\n"
                "  start the students with the same spec and a [link] address that this machine"
                " reaches, or wait longer ([link] student_wait_seconds)."
            )

    def _drop(self, rank: int) -> None:
        student = self._students.pop(rank, None)
        if student:
            del self._ranks[student.peer]
            self._transport.disconnect(student.peer)

    def _send(self, rank: int, message: Message) -> None:
        self._send_frames(rank, codec.encode(message))

    def _send_frames(self, rank: int, frames: list[Frame]) -> None:
        student = self._students.get(rank)
        if student is None:
            return  # an earlier send found that the student is gone
        try:
            self._transport.send(student.peer, frames)
        except PeerGoneError:
            # It is greeted again while its endpoint is published.
            self._drop(rank)

"""The teacher's side of the link: finds a run's students, grants credits, queues requests.

A thread of the link owns the sockets. The forward pass runs in the caller's thread, which takes
work with `next_request` and returns results with `reply`. So heartbeats go on meanwhile.
"""

from __future__ import annotations

import itertools
import queue
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import zmq

from dskd_ds.errors import DskdError, LinkError, NoTeacherError
from dskd_ds.link import codec, keys, sockets
from dskd_ds.link.address_reader import AddressReader
from dskd_ds.link.messages import (
    MAX_FAILURE_CHARACTERS,
    Array,
    Bye,
    Credit,
    Failure,
    Hello,
    Message,
    Ping,
    Rejected,
    Reply,
    Request,
    Welcome,
    WhoAreYou,
)
from dskd_ds.spec.processes import LinkSpec

DROP_LINGER_MILLISECONDS = 500
"""How long the socket of a dropped student goes on sending what is queued, such as a goodbye."""


@dataclass(frozen=True)
class Work:
    """A request, and the student that sent it."""

    student_rank: int
    request: Request
    arrays: dict[str, Array]
    session: int = 0
    """Number of the session in which the request came; a new hello starts a new session.

    A student of another session (greeted again, or restarted) does not wait for a reply to it.
    """


@dataclass
class _Student:
    address: str
    socket: sockets.Socket
    last_seen: float
    session: int
    welcomed: bool = False


class TeacherLink:
    """Connects to each student of a run when it appears, until all have said goodbye."""

    def __init__(self, run_dir: Path, spec: LinkSpec, hello: Hello, num_students: int) -> None:
        self.spec, self.hello = spec, hello
        self._run_dir, self._num_students = run_dir, num_students
        self._keys = keys.run_keys(run_dir) if spec.encrypt else None
        self._context: sockets.Context = zmq.Context()
        self._waker = sockets.Waker(self._context)
        self._poller = zmq.Poller()
        self._poller.register(self._waker.reader, zmq.POLLIN)
        self._students: dict[int, _Student] = {}
        self._sessions = itertools.count()
        self._finished: dict[int, str] = {}
        """Address of each student that said goodbye, by rank."""
        self._rejections: dict[int, str] = {}
        """Why a student takes no replies from this teacher, by rank."""
        self._num_done = 0
        """Requests answered or refused, of all students; heartbeats carry it."""
        self._addresses = AddressReader(run_dir, spec.heartbeat_seconds)
        # For the serving thread: work, the error that ended the link's thread, or None at the end.
        self._requests: queue.Queue[Work | DskdError | None] = queue.Queue()
        # A ZeroMQ socket belongs to one thread, so replies are handed to the link's.
        self._outbox: queue.SimpleQueue[tuple[Work, list[codec.Frame]]] = queue.SimpleQueue()
        self._without_student_since = time.monotonic()
        self._closing = False
        self._thread = threading.Thread(
            target=self._run, name=f"teacher {hello.teacher}", daemon=True
        )
        self._thread.start()

    def next_request(self) -> Work | None:
        """Wait for a request and return it; None if all students have said goodbye.

        Raises the DskdError that ended the link's thread.
        """
        while True:
            item = self._requests.get()
            if isinstance(item, DskdError):
                raise item
            if item is None or self._is_wanted(item):
                return item

    def reply(self, work: Work, arrays: dict[str, Array], forward_seconds: float) -> None:
        """Queue the signals of a request for sending; the student then gets its credit back."""
        message = Reply(request_id=work.request.request_id, forward_seconds=forward_seconds)
        frames = codec.encode(message, arrays)
        size, limit = codec.num_bytes(frames), self.spec.max_message_bytes
        if size > limit:
            # The student's socket would close the connection silently.
            self.fail(
                work,
                f"the reply has {size} bytes, more than [link] max_message_bytes = {limit}.\n"
                "  raise it, or set a smaller [train] micro_batch_blocks",
            )
        else:
            self._queue_frames(work, frames)

    def fail(self, work: Work, reason: str) -> None:
        """Tell the student that its request cannot be answered."""
        message = Failure(request_id=work.request.request_id, text=reason[:MAX_FAILURE_CHARACTERS])
        self._queue_frames(work, codec.encode(message))

    @property
    def num_queued(self) -> int:
        """Requests that have come and that `next_request` has not returned yet."""
        return self._requests.qsize()

    @property
    def rejections(self) -> dict[int, str]:
        """Why a student takes no replies from this teacher, by rank."""
        return dict(self._rejections)

    def close(self) -> None:
        """Say goodbye to all students and close the sockets."""
        self._closing = True
        self._addresses.close()
        self._waker.wake()
        self._thread.join(timeout=10)
        self._context.destroy(linger=sockets.LINGER_MILLISECONDS)

    def _queue_frames(self, work: Work, frames: list[codec.Frame]) -> None:
        self._outbox.put((work, frames))
        self._waker.wake()

    def _is_wanted(self, work: Work) -> bool:
        """Return whether the student that sent the request still waits for its reply."""
        # The serving thread asks this too: a single look-up in a dict needs no lock.
        student = self._students.get(work.student_rank)
        return student is not None and student.session == work.session

    def _run(self) -> None:
        try:
            self._serve_sockets()
            self._requests.put(None)
        except DskdError as error:
            self._requests.put(error)
        except Exception as error:
            # A bug here must reach the serving thread instead of ending this thread silently.
            reason = f"{type(error).__name__}: {error}"
            self._requests.put(LinkError(f"teacher {self.hello.teacher}: {reason}"))

    def _serve_sockets(self) -> None:
        """Exchange messages until the link closes or all students have said goodbye."""
        # Half a heartbeat, so that no heartbeat is late by more than that.
        poll_milliseconds = int(self.spec.heartbeat_seconds * 500)
        next_heartbeat, last_heartbeat = 0.0, time.monotonic()
        while not self._closing and len(self._finished) < self._num_students:
            ready = dict(self._poller.poll(timeout=poll_milliseconds))
            if self._waker.reader in ready:
                self._waker.drain()
            for rank, student in list(self._students.items()):
                # A message may make `_handle` drop the student, or greet it over a new socket.
                while self._students.get(rank) is student and student.socket.poll(0):
                    self._handle(rank, student, sockets.receive(student.socket))
            self._send_outbox()
            now = time.monotonic()
            if now >= next_heartbeat:
                next_heartbeat = now + self.spec.heartbeat_seconds
                self._forgive_own_gap(now - last_heartbeat)
                last_heartbeat = now
                self._look_for_students()
                self._heartbeat(now)
        for rank in list(self._students):
            self._send(rank, Bye())

    def _forgive_own_gap(self, gap: float) -> None:
        """Count a pause of this process (SIGSTOP, a frozen machine) as nobody's silence."""
        if gap <= self.spec.dead_after_seconds:
            return
        self._without_student_since += gap
        for student in self._students.values():
            student.last_seen += gap

    def _handle(self, rank: int, student: _Student, frames: list[codec.Frame]) -> None:
        """Act on one message. An invalid one ends the sender's session; a new one follows."""
        peer = f"student {rank} at {student.address}"
        try:
            message, arrays = codec.decode(frames, peer)
        except LinkError as error:
            print(f"teacher {self.hello.teacher}: {error}", file=sys.stderr)
            self._drop(rank)
            return
        student.last_seen = time.monotonic()
        if isinstance(message, Welcome):
            student.welcomed = True
            self._send(rank, Credit(num_requests=self.spec.credits))
        elif isinstance(message, Request):
            self._requests.put(
                Work(student_rank=rank, request=message, arrays=arrays, session=student.session)
            )
        elif isinstance(message, Bye):
            # Its address file may still exist; it must not be greeted again because of that.
            self._finished[rank] = student.address
            self._drop(rank)
        elif isinstance(message, WhoAreYou):
            self._greet(rank, student.address)
        elif isinstance(message, Rejected):
            self._rejections[rank] = message.text
            self._finished[rank] = student.address
            self._drop(rank)
        elif not isinstance(message, Ping):
            kind = type(message).__name__
            raise LinkError(f"{peer} sent a {kind}, which only teachers send.")

    def _send_outbox(self) -> None:
        """Send the queued replies, and return a credit with each."""
        while not self._outbox.empty():
            work, frames = self._outbox.get()
            self._num_done += 1
            if self._is_wanted(work):
                self._send_frames(work.student_rank, frames)
                self._send(work.student_rank, Credit(num_requests=1))

    def _look_for_students(self) -> None:
        """Greet every student whose published address is new."""
        for rank, address in self._addresses.current().items():
            known = self._students.get(rank)
            is_connected = known is not None and known.address == address
            has_finished = self._finished.get(rank) == address
            if is_connected or has_finished:
                continue
            # A new address is a restarted student: it trains on, even if its predecessor finished.
            self._finished.pop(rank, None)
            self._greet(rank, address)

    def _greet(self, rank: int, address: str) -> None:
        """Say hello to a student and start a new session, over a new socket.

        The student's earlier requests are dropped.
        """
        self._drop(rank)
        socket = sockets.teacher_socket(self._context, self.spec, self._keys, address)
        self._poller.register(socket, zmq.POLLIN)
        self._students[rank] = _Student(
            address=address, socket=socket, last_seen=time.monotonic(), session=next(self._sessions)
        )
        self._send(rank, self.hello)

    def _heartbeat(self, now: float) -> None:
        """Ping all students and drop the silent ones. Raises NoTeacherError after the wait."""
        for rank, student in list(self._students.items()):
            if now - student.last_seen > self.spec.dead_after_seconds:
                # It is greeted again while its address is published.
                self._drop(rank)
            elif student.welcomed:
                self._send(rank, Ping(num_done=self._num_done))
        if any(student.welcomed for student in self._students.values()):
            self._without_student_since = now
        elif now - self._without_student_since > self.spec.teacher_wait_seconds:
            raise NoTeacherError(
                f"teacher {self.hello.teacher}: no student of {self._run_dir} has listened for"
                f" {self.spec.teacher_wait_seconds:g} s.\n"
                "  start the students with the same spec and a [link] address that this machine"
                " reaches, or wait longer ([link] teacher_wait_seconds)."
            )

    def _drop(self, rank: int) -> None:
        student = self._students.pop(rank, None)
        if student:
            self._poller.unregister(student.socket)
            student.socket.close(linger=DROP_LINGER_MILLISECONDS)

    def _send(self, rank: int, message: Message) -> None:
        self._send_frames(rank, codec.encode(message))

    def _send_frames(self, rank: int, frames: list[codec.Frame]) -> None:
        student = self._students.get(rank)
        if student is None:
            return  # an earlier send found that the student is gone
        try:
            sockets.send(student.socket, frames)
        except zmq.ZMQError:
            # The student is gone or its queue is full; it is greeted again while its address is
            # published.
            self._drop(rank)

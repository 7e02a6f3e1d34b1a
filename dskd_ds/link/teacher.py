"""The teacher's end of the link: finds the students of a run, grants them credits, queues their requests.

The thread here talks; the forward pass runs in the caller's thread, which takes work with `next_request` and hands results to
`reply`. So heartbeats go on while a forward pass is under way.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import zmq

from dskd_ds.errors import DskdError, LinkError, NoTeacherError
from dskd_ds.link import codec, keys, sockets
from dskd_ds.link.messages import (
    Array,
    Bye,
    Credit,
    Failure,
    Hello,
    Message,
    Ping,
    Reply,
    Request,
    Welcome,
    WhoAreYou,
)
from dskd_ds.spec.processes import LinkSpec


@dataclass(frozen=True)
class Work:
    """A request, and whose it is."""

    student_rank: int
    request: Request
    arrays: dict[str, Array]
    greeting: int = 0
    """Number of the hello that it came after: a student that was greeted again, or another one of its rank, waits for no reply to it."""


@dataclass
class _Student:
    address: str
    socket: sockets.Socket
    last_seen: float
    greeting: int
    welcomed: bool = False


class TeacherLink:
    """Connect to every student of a run as it appears, and serve until all have said goodbye."""

    def __init__(self, run_dir: Path, spec: LinkSpec, hello: Hello, num_students: int) -> None:
        self.spec, self.hello = spec, hello
        self._run_dir, self._num_students = run_dir, num_students
        self._keys = keys.run_keys(run_dir) if spec.encrypt else None
        self._context: sockets.Context = zmq.Context()
        self._wake, self._woken = sockets.wake_pair(self._context)
        self._wake_lock = threading.Lock()
        self._poller = zmq.Poller()
        self._poller.register(self._woken, zmq.POLLIN)
        self._students: dict[int, _Student] = {}
        self._greetings = itertools.count()
        self._finished: dict[int, str] = {}  # rank -> the address that said goodbye
        self._requests: queue.Queue[Work | DskdError | None] = queue.Queue()
        self._outbox: queue.SimpleQueue[tuple[Work, list[codec.Frame]]] = queue.SimpleQueue()
        self._alone_since = time.monotonic()
        self._closing = False
        self._thread = threading.Thread(
            target=self._run, name=f"teacher {hello.teacher}", daemon=True
        )
        self._thread.start()

    def next_request(self) -> Work | None:
        """Wait for a request. None: all students have said goodbye. Raises DskdError where the link broke."""
        while True:
            item = self._requests.get()
            if isinstance(item, DskdError):
                raise item
            if item is None or self._still_wanted(item):
                return item

    def reply(self, work: Work, arrays: dict[str, Array], forward_seconds: float) -> None:
        """Hand over the signals of a request; they are sent by the link's thread, then the student gets its credit back."""
        message = Reply(request_id=work.request.request_id, forward_seconds=forward_seconds)
        frames = codec.encode(message, arrays)
        size, limit = codec.num_bytes(frames), self.spec.max_message_bytes
        if size > limit:  # the student's socket would cut the connection without a word
            self.fail(
                work,
                f"the reply has {size} bytes, more than [link] max_message_bytes = {limit}.\n"
                "  raise it, or set a smaller [train] micro_batch_blocks",
            )
        else:
            self._post(work, frames)

    def fail(self, work: Work, text: str) -> None:
        """Tell the student that its request cannot be done."""
        self._post(
            work, codec.encode(Failure(request_id=work.request.request_id, text=text[:4000]))
        )

    def close(self) -> None:
        """Leave in good order."""
        self._closing = True
        with self._wake_lock:
            self._wake.send(b"")
        self._thread.join(timeout=10)
        self._context.destroy(linger=2000)

    def _post(self, work: Work, frames: list[codec.Frame]) -> None:
        self._outbox.put((work, frames))
        with self._wake_lock:
            self._wake.send(b"")

    def _still_wanted(self, work: Work) -> bool:
        student = self._students.get(work.student_rank)
        return student is not None and student.greeting == work.greeting

    def _run(self) -> None:
        try:
            self._talk()
            self._requests.put(None)
        except DskdError as error:
            self._requests.put(error)
        except (
            Exception
        ) as error:  # a bug here must reach the serving thread, not die with this one
            self._requests.put(
                LinkError(f"teacher {self.hello.teacher}: {type(error).__name__}: {error}")
            )

    def _talk(self) -> None:
        next_beat = 0.0
        while not self._closing and len(self._finished) < self._num_students:
            ready = dict(self._poller.poll(timeout=int(self.spec.heartbeat_seconds * 500)))
            if self._woken in ready:
                sockets.drain(self._woken)
            for rank, student in list(self._students.items()):
                while self._students.get(rank) is student and student.socket.poll(0):
                    self._handle(rank, student, sockets.receive(student.socket))
            self._send_outbox()
            now = time.monotonic()
            if now >= next_beat:
                next_beat = now + self.spec.heartbeat_seconds
                self._look_for_students()
                self._heartbeat(now)
        for rank in list(self._students):
            self._send(rank, Bye())

    def _handle(self, rank: int, student: _Student, frames: list[codec.Frame]) -> None:
        message, arrays = codec.decode(frames, f"student {rank} at {student.address}")
        student.last_seen = time.monotonic()
        if isinstance(message, Welcome):
            student.welcomed = True
            self._send(rank, Credit(num_requests=self.spec.credits))
        elif isinstance(message, Request):
            self._requests.put(Work(rank, message, arrays, student.greeting))
        elif isinstance(message, Bye):
            self._finished[rank] = student.address
            self._drop(rank)
        elif isinstance(message, WhoAreYou):
            self._greet(rank, student.address)
        elif not isinstance(message, Ping):
            raise LinkError(
                f"student {rank} at {student.address} sent a {type(message).__name__}, which only teachers send."
            )

    def _send_outbox(self) -> None:
        while not self._outbox.empty():
            work, frames = self._outbox.get()
            if self._still_wanted(work):
                self._send_frames(work.student_rank, frames)
                self._send(work.student_rank, Credit(num_requests=1))

    def _look_for_students(self) -> None:
        for rank, address in keys.read_addresses(self._run_dir).items():
            known = self._students.get(rank)
            if (known and known.address == address) or self._finished.get(rank) == address:
                continue
            self._finished.pop(rank, None)
            self._greet(rank, address)

    def _greet(self, rank: int, address: str) -> None:
        """Say hello, over a socket of its own: what was said before it is over."""
        self._drop(rank)
        socket = sockets.teacher_socket(self._context, self.spec, self._keys, address)
        self._poller.register(socket, zmq.POLLIN)
        self._students[rank] = _Student(address, socket, time.monotonic(), next(self._greetings))
        self._send(rank, self.hello)

    def _heartbeat(self, now: float) -> None:
        for rank, student in list(self._students.items()):
            if now - student.last_seen > self.spec.dead_after_seconds:
                self._drop(rank)  # and is greeted again, as long as its address is there
            elif student.welcomed:
                self._send(rank, Ping())
        if any(student.welcomed for student in self._students.values()):
            self._alone_since = now
        elif now - self._alone_since > self.spec.teacher_wait_seconds:
            raise NoTeacherError(
                f"teacher {self.hello.teacher}: no student of {self._run_dir} has listened for {self.spec.teacher_wait_seconds:g} s.\n"
                "  start the students with the same spec and a [link] address that is reached from here, or wait longer"
                " ([link] teacher_wait_seconds)."
            )

    def _drop(self, rank: int) -> None:
        student = self._students.pop(rank, None)
        if student:
            self._poller.unregister(student.socket)
            student.socket.close(linger=500)

    def _send(self, rank: int, message: Message) -> None:
        self._send_frames(rank, codec.encode(message))

    def _send_frames(self, rank: int, frames: list[codec.Frame]) -> None:
        student = self._students.get(rank)
        if student is None:
            return  # a send just before found it gone
        try:
            sockets.send(student.socket, frames)
        except zmq.ZMQError:
            self._drop(
                rank
            )  # its queue is full or it is gone; the address file will tell when it is back

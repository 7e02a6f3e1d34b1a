"""The student's end of the link: requests go in, futures of replies come out; a thread of its own does the talking.

Teachers come (Hello), are checked, welcomed, and pull work by granting credits. A teacher that leaves or falls silent gives
its requests in flight back to the queue; they go to another teacher, or wait for one.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from dskd_ds.errors import DskdError, InputError, LinkError, NoTeacherError
from dskd_ds.link import codec, keys, sockets
from dskd_ds.link.address import place_of
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
    Wanted,
    Welcome,
    WhoAreYou,
)
from dskd_ds.spec.processes import LinkSpec


@dataclass(frozen=True)
class Answer:
    """A reply, and what it took."""

    arrays: dict[str, Array]
    teacher: str
    forward_seconds: float
    link_bytes: int
    """Bytes of request and reply."""


@dataclass
class _Job:
    request_id: int
    frames: list[codec.Frame]
    future: Future[Answer]


@dataclass
class _Teacher:
    name: str
    last_seen: float
    credits: int = 0
    in_flight: dict[int, _Job] = field(default_factory=dict)


class StudentLink:
    """Bind, publish the address, and hand requests to whichever teacher asks for work."""

    def __init__(
        self,
        run_dir: Path,
        rank: int,
        spec: LinkSpec,
        vocab_size: int,
        hidden_size: int,
        spans_nodes: bool = False,
    ) -> None:
        """spans_nodes: whether the launch has ranks on other machines.

        Raises InputError if [link] address will not do, LinkError if the run's keys will not.
        """
        self.spec, self.name = spec, f"student {rank}"
        self._run_dir, self._rank = run_dir, rank
        self._expected = (vocab_size, hidden_size)
        self._fingerprint: str | None = None
        place = place_of(spec, spans_nodes)
        run_keys = keys.run_keys(run_dir) if spec.encrypt else None
        keys.link_dir(run_dir).mkdir(parents=True, exist_ok=True)
        self._context: sockets.Context = zmq.Context()
        self._authenticator = (
            sockets.start_authenticator(self._context, run_keys) if run_keys else None
        )
        try:
            self._router, self.address = sockets.student_socket(
                self._context, spec, run_keys, place
            )
        except InputError:
            self._end_sockets(linger=0)
            raise
        self._wake, self._woken = sockets.wake_pair(self._context)
        self._lock = threading.Lock()
        self._waiting: deque[_Job] = deque()
        self._teachers: dict[bytes, _Teacher] = {}
        self._alone_since = time.monotonic()
        self._failure: DskdError | None = None
        self._closing = False
        self._next_id = int.from_bytes(
            os.urandom(6), "little"
        )  # a late reply to an earlier process of this rank must not fit
        keys.publish_address(run_dir, rank, self.address)
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    @property
    def fingerprint(self) -> str | None:
        """What the teachers' replies depend on; None before the first teacher came."""
        return self._fingerprint

    def submit(self, arrays: dict[str, Array], wanted: Wanted) -> Future[Answer]:
        """Queue one request; returns at once. The future raises NoTeacherError, LinkError or InputError where it cannot be answered."""
        future: Future[Answer] = Future()
        with self._lock:
            if self._failure:
                future.set_exception(self._failure)
                return future
            request = Request(request_id=self._next_id, wanted=wanted)
            self._next_id += 1
            frames = codec.encode(request, arrays)
            size, limit = codec.num_bytes(frames), self.spec.max_message_bytes
            if (
                size > limit
            ):  # the teacher's socket would cut the connection without a word, and so would the next one's
                future.set_exception(
                    InputError(
                        f"{self.name}: a request has {size} bytes, more than [link] max_message_bytes = {limit}.\n"
                        "  raise it, or set a smaller [train] micro_batch_blocks."
                    )
                )
                return future
            self._waiting.append(_Job(request.request_id, frames, future))
            self._wake.send(b"")
        return future

    def close(self) -> None:
        """Say goodbye to the teachers and stop listening."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            self._wake.send(b"")
        self._thread.join(timeout=10)
        self._fail(
            LinkError(f"{self.name}: the link is closed")
        )  # whoever still waits for a reply must not wait for ever
        keys.withdraw_address(self._run_dir, self._rank)
        self._end_sockets(linger=2000)

    def _end_sockets(self, linger: int) -> None:
        if self._authenticator:
            self._authenticator.stop()
        self._context.destroy(linger=linger)

    def _run(self) -> None:
        try:
            self._talk()
        except DskdError as error:
            self._fail(error)
        except (
            Exception
        ) as error:  # a bug here must reach the training thread, not die with this one
            self._fail(
                LinkError(
                    f"{self.name}: the link's thread stopped: {type(error).__name__}: {error}"
                )
            )

    def _talk(self) -> None:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._woken, zmq.POLLIN)
        next_beat = 0.0
        while not self._closing:
            ready = dict(poller.poll(timeout=int(self.spec.heartbeat_seconds * 500)))
            if self._woken in ready:
                sockets.drain(self._woken)
            while self._router.poll(0):
                identity, *frames = sockets.receive(self._router)
                self._handle(bytes(identity), frames)
            now = time.monotonic()
            if now >= next_beat:
                next_beat = now + self.spec.heartbeat_seconds
                self._heartbeat(now)
            self._dispatch()
        for identity in list(self._teachers):
            self._send(identity, Bye())

    def _handle(self, identity: bytes, frames: list[codec.Frame]) -> None:
        teacher = self._teachers.get(identity)
        peer = f"teacher {teacher.name}" if teacher else f"an unnamed peer {identity.hex()}"
        message, arrays = codec.decode(frames, peer)
        if isinstance(message, Hello):
            self._welcome(identity, message)
            return
        if (
            teacher is None
        ):  # a late word of one that was given up. It hears one answer to each, to which it answers with a hello
            if not isinstance(message, Bye):
                self._send(identity, WhoAreYou())
            return
        teacher.last_seen = time.monotonic()
        if isinstance(message, Credit):
            teacher.credits += message.num_requests
        elif isinstance(message, Reply):
            self._settle(teacher, message, arrays, codec.num_bytes(frames))
        elif isinstance(message, Failure):
            job = teacher.in_flight.pop(message.request_id, None)
            if job:
                job.future.set_exception(
                    LinkError(f"{peer} could not answer a request: {message.text}")
                )
        elif isinstance(message, Bye):
            self._lose(identity, "left")
        elif not isinstance(message, Ping):
            raise LinkError(f"{peer} sent a {type(message).__name__}, which only students send.")

    def _welcome(self, identity: bytes, hello: Hello) -> None:
        if (hello.vocab_size, hello.hidden_size) != self._expected:
            raise LinkError(
                f"teacher {hello.teacher} has vocabulary and hidden size {hello.vocab_size}, {hello.hidden_size}; "
                f"this run expects {self._expected[0]}, {self._expected[1]}.\n  start it with this run's spec."
            )
        if self._fingerprint not in (None, hello.fingerprint):
            raise LinkError(
                f"teacher {hello.teacher} is {hello.fingerprint}, an earlier one was {self._fingerprint}.\n"
                "  all teachers of a run must serve the same weights in the same number format, with the same sense index."
            )
        self._fingerprint = hello.fingerprint
        self._teachers[identity] = _Teacher(hello.teacher, time.monotonic())
        self._send(identity, Welcome(student=self.name))

    def _settle(
        self, teacher: _Teacher, reply: Reply, arrays: dict[str, Array], reply_bytes: int
    ) -> None:
        job = teacher.in_flight.pop(reply.request_id, None)
        if job:  # a reply to a request that was given to another teacher meanwhile is dropped
            size = reply_bytes + codec.num_bytes(job.frames)
            job.future.set_result(Answer(arrays, teacher.name, reply.forward_seconds, size))

    def _heartbeat(self, now: float) -> None:
        for identity, teacher in list(self._teachers.items()):
            if now - teacher.last_seen > self.spec.dead_after_seconds:
                self._lose(identity, f"has been silent for {self.spec.dead_after_seconds} s")
            else:
                self._send(identity, Ping())
        if self._teachers:
            self._alone_since = now
        elif now - self._alone_since > self.spec.teacher_wait_seconds:
            raise NoTeacherError(
                f"{self.name}: no teacher came to {self.address} within {self.spec.teacher_wait_seconds:g} s.\n"
                "  start one (python -m dskd_ds.teacher --spec ...), give the launch teacher ranks ([topology] num_teachers),"
                " set a [link] address that teachers reach, or wait longer ([link] teacher_wait_seconds)."
            )

    def _dispatch(self) -> None:
        """Give waiting jobs to the teachers with the most credits left."""
        while self._waiting:
            identity, teacher = max(
                self._teachers.items(), key=lambda item: item[1].credits, default=(b"", None)
            )
            if teacher is None or teacher.credits == 0:
                return
            with self._lock:
                job = self._waiting.popleft()
            teacher.credits -= 1
            teacher.in_flight[job.request_id] = job
            self._send_frames(identity, job.frames)

    def _lose(self, identity: bytes, how: str) -> None:
        teacher = self._teachers.pop(identity, None)
        if teacher is None:
            return
        with self._lock:
            self._waiting.extendleft(reversed(teacher.in_flight.values()))
        if teacher.in_flight:
            print(
                f"{self.name}: teacher {teacher.name} {how}; {len(teacher.in_flight)} requests go to another.",
                file=sys.stderr,
            )

    def _send(self, identity: bytes, message: Message) -> None:
        self._send_frames(identity, codec.encode(message))

    def _send_frames(self, identity: bytes, frames: list[codec.Frame]) -> None:
        try:
            sockets.send(self._router, [identity, *frames])
        except zmq.ZMQError as error:
            self._lose(identity, f"cannot be reached ({error})")

    def _fail(self, error: DskdError) -> None:
        with self._lock:
            self._failure = self._failure or error
            jobs = [
                *self._waiting,
                *(job for teacher in self._teachers.values() for job in teacher.in_flight.values()),
            ]
            self._waiting.clear()
            self._teachers.clear()
        for job in jobs:
            job.future.set_exception(error)

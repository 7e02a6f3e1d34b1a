"""The student's side of the link: takes requests and returns futures of the replies.

A thread of the link owns the sockets. A teacher sends a Hello, is checked and welcomed, and then
gets as many requests as it has granted credits. If a teacher leaves or falls silent, its requests
in flight go back to the queue and are sent to another teacher, now or when one connects.
"""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from dskd_ds.errors import DskdError, InputError, LinkError, NoTeacherError
from dskd_ds.link import codec, keys, sockets
from dskd_ds.link.address import listen_address
from dskd_ds.link.jobs import Answer, Job, JobQueue
from dskd_ds.link.messages import (
    Array,
    Bye,
    Credit,
    Failure,
    Hello,
    Message,
    Ping,
    Reply,
    Wanted,
    Welcome,
    WhoAreYou,
)
from dskd_ds.spec.processes import LinkSpec


@dataclass
class _Teacher:
    name: str
    last_seen: float
    credits: int = 0
    in_flight: dict[int, Job] = field(default_factory=dict)


class StudentLink:
    """Binds a socket, publishes its address, and sends each request to a teacher with credits."""

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

        Raises InputError if [link] address is invalid, LinkError if the run's keys are.
        """
        self.spec, self.name = spec, f"student {rank}"
        self._run_dir, self._rank = run_dir, rank
        self._expected_sizes = (vocab_size, hidden_size)
        self._fingerprint: str | None = None
        # Address and keys are checked first: if they are wrong, there is nothing to close.
        listen = listen_address(spec, spans_nodes)
        run_keys = keys.run_keys(run_dir) if spec.encrypt else None
        keys.link_dir(run_dir).mkdir(parents=True, exist_ok=True)
        self._context: sockets.Context = zmq.Context()
        # Before the socket is bound: without an authenticator ZeroMQ admits any key.
        self._authenticator = (
            sockets.start_authenticator(self._context, run_keys) if run_keys else None
        )
        try:
            self._router, self.address = sockets.student_socket(
                self._context, spec, run_keys, listen
            )
        except InputError:
            self._close_sockets(linger_milliseconds=0)
            raise
        self._waker = sockets.Waker(self._context)
        self._jobs = JobQueue(self.name, spec.max_message_bytes, on_added=self._waker.wake)
        self._teachers: dict[bytes, _Teacher] = {}
        self._without_teacher_since = time.monotonic()
        self._closing = False
        # Last: from now on teachers connect.
        keys.publish_address(run_dir, rank, self.address)
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    @property
    def fingerprint(self) -> str | None:
        """What the teachers' replies depend on; None before the first teacher has connected."""
        return self._fingerprint

    def submit(self, arrays: dict[str, Array], wanted: Wanted) -> Future[Answer]:
        """Queue one request and return at once.

        The future raises NoTeacherError, LinkError or InputError if there is no answer.
        """
        return self._jobs.add(arrays, wanted)

    def close(self) -> None:
        """Say goodbye to the teachers and stop listening. Unanswered requests fail."""
        if self._closing:
            return
        self._closing = True
        self._waker.wake()
        self._thread.join(timeout=10)
        self._fail(LinkError(f"{self.name}: the link is closed"))
        keys.withdraw_address(self._run_dir, self._rank)
        self._close_sockets(sockets.LINGER_MILLISECONDS)

    def _close_sockets(self, linger_milliseconds: int) -> None:
        if self._authenticator:
            self._authenticator.stop()
        self._context.destroy(linger=linger_milliseconds)

    def _run(self) -> None:
        try:
            self._serve_sockets()
        except DskdError as error:
            self._fail(error)
        except Exception as error:
            # A bug here must reach the training thread instead of ending this thread silently.
            reason = f"{type(error).__name__}: {error}"
            self._fail(LinkError(f"{self.name}: the link's thread stopped: {reason}"))

    def _serve_sockets(self) -> None:
        """Exchange messages until the link closes, then say goodbye to all teachers."""
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._waker.reader, zmq.POLLIN)
        # Half a heartbeat, so that no heartbeat is late by more than that.
        poll_milliseconds = int(self.spec.heartbeat_seconds * 500)
        next_heartbeat = 0.0
        while not self._closing:
            ready = dict(poller.poll(timeout=poll_milliseconds))
            if self._waker.reader in ready:
                self._waker.drain()
            while self._router.poll(0):
                identity, *frames = sockets.receive(self._router)
                self._handle(bytes(identity), frames)
            now = time.monotonic()
            if now >= next_heartbeat:
                next_heartbeat = now + self.spec.heartbeat_seconds
                self._heartbeat(now)
            self._dispatch()
        for identity in list(self._teachers):
            self._send(identity, Bye())

    def _handle(self, identity: bytes, frames: list[codec.Frame]) -> None:
        """Act on one message. Raises LinkError if it is invalid."""
        teacher = self._teachers.get(identity)
        peer = f"teacher {teacher.name}" if teacher else f"an unnamed peer {identity.hex()}"
        message, arrays = codec.decode(frames, peer)
        if isinstance(message, Hello):
            self._welcome(identity, message)
        elif teacher is None:
            # A teacher that counts as lost: each of its messages gets one answer, which makes it
            # send a new hello.
            if not isinstance(message, Bye):
                self._send(identity, WhoAreYou())
        else:
            teacher.last_seen = time.monotonic()
            if isinstance(message, Bye):
                self._lose(identity, "left")
            elif isinstance(message, Reply):
                self._finish(teacher, message, arrays, reply_bytes=codec.num_bytes(frames))
            else:
                self._note(teacher, message)

    def _note(self, teacher: _Teacher, message: Message) -> None:
        """Act on a message without arrays. Raises LinkError if only students send its kind."""
        if isinstance(message, Credit):
            teacher.credits += message.num_requests
        elif isinstance(message, Failure):
            job = teacher.in_flight.pop(message.request_id, None)
            if job:
                reason = f"could not answer a request: {message.text}"
                job.future.set_exception(LinkError(f"teacher {teacher.name} {reason}"))
        elif not isinstance(message, Ping):
            kind = type(message).__name__
            raise LinkError(f"teacher {teacher.name} sent a {kind}, which only students send.")

    def _welcome(self, identity: bytes, hello: Hello) -> None:
        """Admit a teacher. Raises LinkError if its model is not the one that the run expects."""
        if (hello.vocab_size, hello.hidden_size) != self._expected_sizes:
            vocab_size, hidden_size = self._expected_sizes
            raise LinkError(
                f"teacher {hello.teacher} has vocabulary and hidden size {hello.vocab_size},"
                f" {hello.hidden_size}; this run expects {vocab_size}, {hidden_size}.\n"
                "  start it with this run's spec."
            )
        # The first teacher's fingerprint holds for the whole run, also after that teacher has left.
        if self._fingerprint not in (None, hello.fingerprint):
            raise LinkError(
                f"teacher {hello.teacher} is {hello.fingerprint}, an earlier one was"
                f" {self._fingerprint}.\n"
                "  all teachers of a run must serve the same weights in the same number format,"
                " with the same sense index."
            )
        self._fingerprint = hello.fingerprint
        self._teachers[identity] = _Teacher(hello.teacher, time.monotonic())
        self._send(identity, Welcome(student=self.name))

    def _finish(
        self, teacher: _Teacher, reply: Reply, arrays: dict[str, Array], reply_bytes: int
    ) -> None:
        """Give a reply to its request's future.

        A reply is dropped if its request was given to another teacher in the meantime.
        """
        job = teacher.in_flight.pop(reply.request_id, None)
        if job:
            link_bytes = reply_bytes + codec.num_bytes(job.frames)
            answer = Answer(
                arrays=arrays,
                teacher=teacher.name,
                forward_seconds=reply.forward_seconds,
                link_bytes=link_bytes,
            )
            job.future.set_result(answer)

    def _heartbeat(self, now: float) -> None:
        """Ping all teachers and drop the silent ones. Raises NoTeacherError after the wait."""
        for identity, teacher in list(self._teachers.items()):
            if now - teacher.last_seen > self.spec.dead_after_seconds:
                self._lose(identity, f"has been silent for {self.spec.dead_after_seconds} s")
            else:
                self._send(identity, Ping())
        # Counts from the last moment with a teacher, or from the start if none has come yet.
        if self._teachers:
            self._without_teacher_since = now
        elif now - self._without_teacher_since > self.spec.teacher_wait_seconds:
            raise NoTeacherError(
                f"{self.name}: no teacher came to {self.address} within"
                f" {self.spec.teacher_wait_seconds:g} s.\n"
                "  start one (python -m dskd_ds.teacher --spec ...), give the launch teacher ranks"
                " ([topology] num_teachers), set a [link] address that teachers reach, or wait"
                " longer ([link] teacher_wait_seconds)."
            )

    def _dispatch(self) -> None:
        """Send waiting jobs to the teachers with the most credits left."""
        while self._teachers:
            identity, teacher = max(self._teachers.items(), key=lambda item: item[1].credits)
            job = self._jobs.take() if teacher.credits else None
            if job is None:
                return
            teacher.credits -= 1
            teacher.in_flight[job.request_id] = job
            self._send_frames(identity, job.frames)

    def _lose(self, identity: bytes, reason: str) -> None:
        """Forget a teacher; its requests in flight wait for another."""
        teacher = self._teachers.pop(identity, None)
        if teacher is None:
            return
        self._jobs.put_back(teacher.in_flight.values())
        if teacher.in_flight:
            print(
                f"{self.name}: teacher {teacher.name} {reason};"
                f" {len(teacher.in_flight)} requests go to another.",
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
        """Fail all jobs and forget all teachers."""
        in_flight: list[Job] = []
        for teacher in self._teachers.values():
            in_flight += teacher.in_flight.values()
        self._teachers.clear()
        self._jobs.fail(error, in_flight)

"""The student's side of the link: takes requests and returns futures of the replies.

A thread of the link owns the sockets. A teacher sends a Hello, is checked and welcomed, and then
gets as many requests as it has granted credits. Which teacher gets which request, and when a
teacher has failed, is decided in ledger.py; this module carries the decisions out.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import zmq

from dskd_ds.errors import DskdError, InputError, LinkError
from dskd_ds.link import codec, keys, sockets
from dskd_ds.link.address import listen_address
from dskd_ds.link.admission import Admission
from dskd_ds.link.jobs import Answer, Jobs
from dskd_ds.link.ledger import Event, Failed, Ledger, Limits, Removed, Send
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
    Wanted,
    Welcome,
    WhoAreYou,
)
from dskd_ds.spec.processes import LinkSpec


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
        self._admission = Admission(vocab_size, hidden_size)
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
        self._jobs = Jobs(self.name, spec.max_message_bytes, on_added=self._waker.wake)
        now = time.monotonic()
        limits = Limits(
            dead_after=spec.dead_after_seconds,
            deadline=spec.deadline_seconds,
            deadline_factor=spec.deadline_factor,
        )
        self._ledger = Ledger(limits, now)
        self._without_teacher_since = now
        self._closing = False
        # Last: from now on teachers connect.
        keys.publish_address(run_dir, rank, self.address)
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    @property
    def fingerprint(self) -> str | None:
        """What the teachers' replies depend on; None before the first teacher has connected."""
        return self._admission.fingerprint

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
            self._dispatch(now)
        for identity in self._ledger.teachers:
            self._send(identity, Bye())

    def _handle(self, identity: bytes, frames: list[codec.Frame]) -> None:
        """Act on one message. An invalid one costs its sender, and nobody else."""
        name = self._ledger.name_of(identity)
        peer = f"teacher {name}" if name else f"an unnamed peer {identity.hex()}"
        try:
            message, arrays = codec.decode(frames, peer)
        except LinkError as error:
            self._reject(identity, str(error))
            return
        if isinstance(message, Hello):
            self._welcome(identity, message)
        elif name is None:
            # A teacher that counts as lost: each of its messages gets one answer, which makes it
            # send a new hello.
            if not isinstance(message, Bye):
                self._send(identity, WhoAreYou())
        elif isinstance(message, Bye):
            self._act_on(self._ledger.leave(identity, "left"))
        else:
            self._note(identity, message, arrays, codec.num_bytes(frames))

    def _note(
        self, identity: bytes, message: Message, arrays: dict[str, Array], num_bytes: int
    ) -> None:
        """Act on a message of a teacher that is present. num_bytes: of the whole message."""
        now = time.monotonic()
        num_done = message.num_done if isinstance(message, Ping) else None
        self._ledger.note_sign_of_life(identity, now, num_done)
        if isinstance(message, Credit):
            self._ledger.grant(identity, message.num_requests)
        elif isinstance(message, Reply):
            self._finish(identity, message, arrays, num_bytes)
        elif isinstance(message, Failure):
            refusal = self._ledger.refuse(identity, message.request_id, message.text, now)
            self._act_on(refusal)
        elif not isinstance(message, Ping):
            self._reject(identity, f"it sent a {type(message).__name__}, which only students send.")

    def _welcome(self, identity: bytes, hello: Hello) -> None:
        """Admit a teacher, or reject it if it cannot serve this run."""
        reason = self._ledger.ban_reason(hello.teacher) or self._admission.mismatch(hello)
        if reason:
            self._admission.last_rejection = f"teacher {hello.teacher}: {reason}"
            print(f"{self.name}: rejected teacher {hello.teacher}: {reason}", file=sys.stderr)
            self._send(identity, Rejected(text=reason[:MAX_FAILURE_CHARACTERS]))
            return
        self._admission.fingerprint = hello.fingerprint
        self._act_on(self._ledger.join(identity, hello.teacher, time.monotonic()))
        self._send(identity, Welcome(student=self.name))

    def _finish(
        self, identity: bytes, reply: Reply, arrays: dict[str, Array], reply_bytes: int
    ) -> None:
        """Give a reply to its request's future.

        A reply is dropped if its request was given to another teacher in the meantime.
        """
        name = self._ledger.name_of(identity) or ""
        now = time.monotonic()
        if not self._ledger.answer(identity, reply.request_id, reply.forward_seconds, now):
            return
        job = self._jobs.finish(reply.request_id)
        if job:
            link_bytes = reply_bytes + codec.num_bytes(job.frames)
            answer = Answer(
                arrays=arrays,
                teacher=name,
                forward_seconds=reply.forward_seconds,
                link_bytes=link_bytes,
            )
            job.future.set_result(answer)

    def _heartbeat(self, now: float) -> None:
        """Ping all teachers and drop the failed ones. Raises NoTeacherError after the wait."""
        self._without_teacher_since += self._ledger.own_gap(now)
        self._act_on(self._ledger.tick(now))
        for identity in self._ledger.teachers:
            self._send(identity, Ping())
        # Counts from the last moment with a teacher, or from the start if none has come yet.
        if self._ledger.teachers:
            self._without_teacher_since = now
        elif now - self._without_teacher_since > self.spec.teacher_wait_seconds:
            raise self._admission.no_teacher(self.name, self.address, self.spec)

    def _dispatch(self, now: float) -> None:
        """Hand the new jobs to the ledger, and send what it gives to teachers."""
        for job_id in self._jobs.take_new():
            self._ledger.add(job_id)
        self._act_on(self._ledger.dispatch(now))

    def _act_on(self, events: Sequence[Event]) -> None:
        """Carry out what the ledger has decided."""
        for event in events:
            if isinstance(event, Send):
                self._send_frames(event.teacher, self._jobs.frames_of(event.job_id))
            elif isinstance(event, Failed):
                job = self._jobs.finish(event.job_id)
                if job:
                    reasons = "; ".join(event.reasons)
                    job.future.set_exception(
                        LinkError(f"no teacher could answer a request: {reasons}")
                    )
            else:
                self._report(event)

    def _report(self, removed: Removed) -> None:
        """Say on stderr that a teacher is gone, unless that cost nothing."""
        if removed.num_waiting or removed.is_banned:
            requests = f"{removed.num_waiting} requests go to another"
            again = "; it is not asked again" if removed.is_banned else ""
            print(
                f"{self.name}: teacher {removed.name} {removed.reason}; {requests}{again}.",
                file=sys.stderr,
            )

    def _reject(self, identity: bytes, reason: str) -> None:
        """Ban a teacher that breaks the protocol; a peer without a name is only reported."""
        if self._ledger.name_of(identity):
            self._act_on(self._ledger.ban(identity, reason))
        else:
            print(f"{self.name}: ignored {reason}", file=sys.stderr)

    def _send(self, identity: bytes, message: Message) -> None:
        self._send_frames(identity, codec.encode(message))

    def _send_frames(self, identity: bytes, frames: list[codec.Frame]) -> None:
        try:
            sockets.send(self._router, [identity, *frames])
        except zmq.ZMQError as error:
            self._act_on(self._ledger.leave(identity, f"cannot be reached ({error})"))

    def _fail(self, error: DskdError) -> None:
        """Fail all jobs, now and later."""
        self._jobs.fail_all(error)

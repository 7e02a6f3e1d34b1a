"""The student's half of the protocol: what it answers to messages, and what it sends by itself.

A teacher sends a Hello, is checked and welcomed, and then gets as many requests as its credits
allow. Which teacher gets which request, and when a teacher has failed, is decided in ledger.py;
this module carries the decisions out. It knows no sockets and no threads: a transport and a clock
are given to it, and it does something only in `turn`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from dskd_ds.errors import LinkError
from dskd_ds.link import codec
from dskd_ds.link.admission import Admission
from dskd_ds.link.decisions import Event, Failed, Lost, Removed, Send
from dskd_ds.link.jobs import Answer, Jobs
from dskd_ds.link.ledger import Ledger, Limits
from dskd_ds.link.messages import (
    MAX_FAILURE_CHARACTERS,
    Array,
    Bye,
    Failure,
    Hello,
    Message,
    Ping,
    Rejected,
    Reply,
    TeacherPing,
    Welcome,
    WhoAreYou,
)
from dskd_ds.link.present import Credits
from dskd_ds.link.reports import Reports
from dskd_ds.link.transport import Frame, Listener, Peer, PeerGoneError
from dskd_ds.spec.processes import LinkSpec

MAX_TEACHERS = 1024
"""Teachers that may be present at the same time; more than any cluster has."""


class StudentProtocol:
    """Gives the requests in `jobs` to teachers, and the teachers' replies to `jobs`."""

    def __init__(
        self,
        spec: LinkSpec,
        *,
        name: str,
        num_students: int,
        transport: Listener,
        jobs: Jobs,
        admission: Admission,
        clock: Callable[[], float],
    ) -> None:
        """num_students: of the run. clock: returns the time in seconds, and never goes back."""
        self._spec, self._name, self._num_students = spec, name, num_students
        self._transport, self._jobs, self._admission = transport, jobs, admission
        self._clock = clock
        limits = Limits(
            dead_after=spec.dead_after_seconds,
            deadline=spec.deadline_seconds,
            deadline_factor=spec.deadline_factor,
        )
        now = clock()
        self._ledger = Ledger(limits, now, student=name)
        self._without_teacher_since = self._next_heartbeat = now
        self._reports = Reports(name)

    @property
    def num_open(self) -> int:
        """Requests that were taken from `jobs` and have no answer yet."""
        return self._ledger.num_open

    def turn(self, timeout_seconds: float) -> None:
        """Wait for messages, at most so long, and act on what came and on what is due.

        Raises NoTeacherError if no teacher has been present for too long while requests waited.
        """
        for received in self._transport.poll(timeout_seconds):
            self._handle(received.peer, received.frames)
        now = self._clock()
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + self._spec.heartbeat_seconds
            self._heartbeat(now)
        self._dispatch(now)

    def say_goodbye(self, is_coming_back: bool) -> None:
        """Tell every connected teacher that this student ends, also those that count as lost."""
        for peer in self._transport.peers:
            self._send(peer, Bye(is_coming_back=is_coming_back))

    def _handle(self, peer: Peer, frames: list[Frame]) -> None:
        """Act on one message. An invalid one costs its sender, and nobody else."""
        name = self._ledger.name_of(peer)
        sender = f"teacher {name}" if name else f"an unnamed peer {peer.hex()}"
        try:
            message, arrays = codec.decode(frames, sender)
        except LinkError as error:
            self._reject(peer, str(error))
            return
        if isinstance(message, Hello):
            self._welcome(peer, message)
        elif name is None:
            # A teacher that counts as lost: each of its messages gets one answer, which makes it
            # send a new hello.
            if not isinstance(message, Bye):
                self._send(peer, WhoAreYou())
        elif isinstance(message, Bye):
            self._act_on(self._ledger.leave(peer, "left"))
        else:
            self._note(peer, message, arrays, codec.num_bytes(frames))

    def _note(self, peer: Peer, message: Message, arrays: dict[str, Array], num_bytes: int) -> None:
        """Act on a message of a teacher that is present. num_bytes: of the whole message."""
        now = self._clock()
        num_done = message.num_done if isinstance(message, TeacherPing) else None
        self._ledger.note_sign_of_life(peer, now, num_done)
        if isinstance(message, TeacherPing):
            self._ledger.note_held(peer, message.held, now)
        elif isinstance(message, Reply):
            self._finish(peer, message, arrays, num_bytes)
        elif isinstance(message, Failure) and message.is_leaving:
            self._act_on(self._ledger.break_down(peer, message.request_id, message.text))
        elif isinstance(message, Failure):
            refusal = self._ledger.refuse(peer, message.request_id, message.text, now)
            self._act_on(refusal)
        else:
            self._reject(peer, f"it sent a {type(message).__name__}, which only students send.")

    def _welcome(self, peer: Peer, hello: Hello) -> None:
        """Admit a teacher, or reject it if it cannot serve this run.

        A hello that has come before changes nothing: it is a copy that the network or an attacker
        made. Its sender may have missed the answer, so it gets another one.
        """
        is_copy = not self._admission.is_new_session(hello)
        if is_copy and self._ledger.name_of(peer) != hello.teacher:
            self._reports.add(f"ignored a copy of an earlier hello of teacher {hello.teacher}.")
            return
        if not is_copy:
            reason = self._reason_to_reject(hello)
            if reason:
                self._turn_away(peer, hello, reason)
                return
            self._admission.admit(hello)
            credits = Credits(hello.credit_requests, hello.credit_bytes)
            self._act_on(self._ledger.join(peer, hello.teacher, credits, self._clock()))
        self._send(peer, Welcome(student=self._name, num_students=self._num_students))

    def _reason_to_reject(self, hello: Hello) -> str | None:
        """Return why a teacher is not admitted; None if it is."""
        if len(self._ledger.teachers) >= MAX_TEACHERS:
            return f"{MAX_TEACHERS} teachers are connected already."
        return self._ledger.ban_reason(hello.teacher) or self._admission.mismatch(hello)

    def _turn_away(self, peer: Peer, hello: Hello, reason: str) -> None:
        """Tell a teacher, and the user, why it is not admitted."""
        self._admission.last_rejection = f"teacher {hello.teacher}: {reason}"
        print(f"{self._name}: rejected teacher {hello.teacher}: {reason}", file=sys.stderr)
        self._send(peer, Rejected(text=reason[:MAX_FAILURE_CHARACTERS]))

    def _finish(self, peer: Peer, reply: Reply, arrays: dict[str, Array], reply_bytes: int) -> None:
        """Give a reply to its request's future.

        A reply is dropped if its request was given to another teacher in the meantime. If it is not
        what the request asked for, or has values such as NaN, another teacher may try.
        """
        name = self._ledger.name_of(peer) or ""
        now = self._clock()
        problem = self._jobs.problem_of_reply(reply.request_id, arrays)
        if problem:
            reason = f"its reply does not fit the request: {problem}"
            self._act_on(self._ledger.refuse(peer, reply.request_id, reason, now))
            return
        if not self._ledger.answer(peer, reply.request_id, reply.forward_seconds, now):
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
        for peer in self._ledger.teachers:
            self._send(peer, Ping())
        # Counts from the last moment with a teacher, or without a request that waits for one.
        if self._ledger.teachers or not self._ledger.num_open:
            self._without_teacher_since = now
        elif now - self._without_teacher_since > self._spec.teacher_wait_seconds:
            raise self._admission.no_teacher(self._name, self._transport.address, self._spec)

    def _dispatch(self, now: float) -> None:
        """Hand the new jobs to the ledger, and send what it gives to teachers."""
        for job in self._jobs.take_new():
            self._ledger.add(job.request_id, job.num_bytes)
        self._act_on(self._ledger.dispatch(now))

    def _act_on(self, events: Sequence[Event]) -> None:
        """Carry out what the ledger has decided."""
        for event in events:
            if isinstance(event, Send):
                self._send_frames(event.teacher, self._jobs.frames_of(event.job_id))
            elif isinstance(event, Failed):
                job = self._jobs.finish(event.job_id)
                if job:
                    job.future.set_exception(LinkError(event.text))
            elif isinstance(event, Lost):
                text = f"a request to teacher {event.name}, or its reply, was lost on the way"
                print(f"{self._name}: {text}; it is sent again.", file=sys.stderr)
            else:
                self._report(event)

    def _report(self, removed: Removed) -> None:
        """Say on stderr that a teacher is gone, unless that cost nothing."""
        if removed.num_waiting or removed.is_banned:
            requests = f"{removed.num_waiting} requests go to another"
            again = "; it is not asked again" if removed.is_banned else ""
            print(
                f"{self._name}: teacher {removed.name} {removed.reason}; {requests}{again}.",
                file=sys.stderr,
            )

    def _reject(self, peer: Peer, reason: str) -> None:
        """Ban a teacher that breaks the protocol; a peer without a name is only reported."""
        if self._ledger.name_of(peer):
            self._act_on(self._ledger.ban(peer, reason))
        else:
            self._reports.add(f"ignored {reason}")

    def _send(self, peer: Peer, message: Message) -> None:
        self._send_frames(peer, codec.encode(message))

    def _send_frames(self, peer: Peer, frames: Sequence[Frame]) -> None:
        try:
            self._transport.send(peer, frames)
        except PeerGoneError as error:
            self._act_on(self._ledger.leave(peer, f"cannot be reached ({error})"))

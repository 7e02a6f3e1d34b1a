"""The student's side of the link: takes requests and returns futures of the replies.

A thread of the link owns the transport and runs the protocol (student_protocol.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from dskd_ds.errors import DskdError, LinkError
from dskd_ds.link import keys, zeromq
from dskd_ds.link.address import ListenAddress, listen_address
from dskd_ds.link.admission import Admission
from dskd_ds.link.jobs import Answer, CheckReply, Jobs
from dskd_ds.link.messages import Array, Wanted
from dskd_ds.link.student_protocol import StudentProtocol
from dskd_ds.link.transport import Listener
from dskd_ds.spec.processes import LinkSpec

OpenListener = Callable[[Path, LinkSpec, ListenAddress], Listener]
"""Run directory, settings and address -> a transport that listens there."""


class StudentLink:
    """Listens, publishes its address, and sends each request to a teacher with credits."""

    def __init__(
        self,
        run_dir: Path,
        rank: int,
        spec: LinkSpec,
        vocab_size: int,
        hidden_size: int,
        *,
        num_students: int = 1,
        spans_nodes: bool = False,
        teacher_name: str = "",
        open_listener: OpenListener = zeromq.open_listener,
    ) -> None:
        """num_students: of the run. spans_nodes: whether the launch has ranks on other machines.

        teacher_name: of the teachers that are waited for, for messages of a run with several.

        Raises InputError if [link] address is invalid, LinkError if the run's keys are.
        """
        self.spec, self.name = spec, f"student {rank}"
        if teacher_name:
            self.name += f" (teacher {teacher_name})"
        self._run_dir, self._rank = run_dir, rank
        self._admission = Admission(vocab_size, hidden_size)
        # Address and keys are checked first: if they are wrong, there is nothing to close.
        listen = listen_address(spec, spans_nodes)
        self._transport = open_listener(run_dir, spec, listen)
        self._jobs = Jobs(self.name, spec.max_message_bytes, on_added=self._transport.wake)
        self._protocol = StudentProtocol(
            spec,
            name=self.name,
            num_students=num_students,
            transport=self._transport,
            jobs=self._jobs,
            admission=self._admission,
            clock=time.monotonic,
        )
        self._is_coming_back = True
        self._closing = False
        # Last: from now on teachers connect.
        self._instance = keys.publish_address(run_dir, rank, self.address)
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """The address that teachers connect to."""
        return self._transport.address

    @property
    def fingerprint(self) -> str | None:
        """What the teachers' replies depend on; None before the first teacher has connected."""
        return self._admission.fingerprint

    def submit(
        self,
        arrays: dict[str, Array],
        wanted: Wanted,
        reply_bytes: int = 0,
        check: CheckReply | None = None,
    ) -> Future[Answer]:
        """Queue one request and return at once.

        reply_bytes: the most bytes that the reply can have, which count against the teachers'
        credits. check: of the reply; if it raises ValueError, another teacher is asked. The future
        raises NoTeacherError, LinkError or InputError if there is no answer.
        """
        return self._jobs.add(arrays, wanted, reply_bytes, check)

    def expect_no_restart(self) -> None:
        """From now on, `close` tells the teachers that this student does not come back."""
        self._is_coming_back = False

    def close(self) -> None:
        """Say goodbye to the teachers and stop listening. Unanswered requests fail."""
        if self._closing:
            return
        self._closing = True
        self._transport.wake()
        self._thread.join(timeout=10)
        self._jobs.fail_all(LinkError(f"{self.name}: the link is closed"))
        keys.withdraw_address(self._run_dir, self._rank, self._instance)
        self._transport.close()

    def _run(self) -> None:
        try:
            # Half a heartbeat, so that no heartbeat is late by more than that.
            timeout_seconds = self.spec.heartbeat_seconds / 2
            while not self._closing:
                self._protocol.turn(timeout_seconds)
            self._protocol.say_goodbye(self._is_coming_back)
        except DskdError as error:
            self._jobs.fail_all(error)
        except Exception as error:
            # A bug here must reach the training thread instead of ending this thread silently.
            reason = f"{type(error).__name__}: {error}"
            self._jobs.fail_all(LinkError(f"{self.name}: the link's thread stopped: {reason}"))

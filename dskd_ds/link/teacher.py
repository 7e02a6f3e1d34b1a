"""The teacher's side of the link: gives the requests of a run's students, and takes the replies.

A thread of the link owns the transport and runs the protocol (teacher_protocol.py). The forward
pass runs in the caller's thread, which takes work with `next_request` and returns results with
`reply`. So heartbeats go on meanwhile.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from dskd_ds.errors import DskdError, LinkError
from dskd_ds.link import zeromq
from dskd_ds.link.endpoint_reader import EndpointReader
from dskd_ds.link.messages import Array, Hello
from dskd_ds.link.teacher_protocol import Surroundings, TeacherProtocol
from dskd_ds.link.transport import Dialer
from dskd_ds.link.work import Work, failure_frames, reply_frames
from dskd_ds.spec.processes import LinkSpec

OpenDialer = Callable[[LinkSpec], Dialer]
"""Settings -> a transport that can connect to students."""


class TeacherLink:
    """Serves each student of a run when it appears, until all have said goodbye."""

    def __init__(
        self,
        run_dir: Path,
        spec: LinkSpec,
        hello: Hello,
        num_students: int,
        *,
        waits_for_restart: bool = False,
        is_stop_wanted: Callable[[], bool] = lambda: False,
        open_dialer: OpenDialer = zeromq.open_dialer,
    ) -> None:
        """num_students: of the run, until a student says how many they are.

        waits_for_restart: whether students that say that they come back are waited for; false for
        a teacher that ends together with its launch. is_stop_wanted: whether this teacher is to end
        as soon as no student is connected; the link's thread asks at each heartbeat.
        """
        self.spec, self.hello = spec, hello
        self._endpoints = EndpointReader(run_dir, spec)
        self._transport = open_dialer(spec)
        # For the serving thread: work, the error that ended the link's thread, or None at the end.
        self._requests: queue.Queue[Work | DskdError | None] = queue.Queue()
        around = Surroundings(
            transport=self._transport,
            endpoints=self._endpoints.current,
            take_work=self._requests.put,
            clock=time.monotonic,
        )
        self._protocol = TeacherProtocol(
            spec,
            hello,
            around,
            num_students=num_students,
            waits_for_restart=waits_for_restart,
            is_stop_wanted=is_stop_wanted,
            # Above that of an earlier process of the same name: containers reuse process ids.
            first_session=time.time_ns(),
        )
        self._closing = False
        self._thread = threading.Thread(
            target=self._run, name=f"teacher {hello.teacher}", daemon=True
        )
        self._thread.start()

    def next_request(self) -> Work | None:
        """Wait for a request and return it; None if this teacher's work is done.

        Raises the DskdError that ended the link's thread.
        """
        while True:
            item = self._requests.get()
            if isinstance(item, DskdError):
                raise item
            if item is None or self._protocol.is_wanted(item):
                return item

    def reply(self, work: Work, arrays: dict[str, Array], forward_seconds: float) -> None:
        """Queue the signals of a request for sending."""
        frames = reply_frames(work, arrays, forward_seconds, self.spec.max_message_bytes)
        self._protocol.queue_reply(work, frames)

    def fail(self, work: Work, reason: str) -> None:
        """Tell the student that its request cannot be answered."""
        self._protocol.queue_reply(work, failure_frames(work, reason))

    def give_back(self, work: Work, reason: str) -> None:
        """Tell the student that this teacher ends, and that its request is not to blame."""
        self._protocol.queue_reply(work, failure_frames(work, reason, is_leaving=True))

    @property
    def num_queued(self) -> int:
        """Requests that have come and that `next_request` has not returned yet."""
        return self._requests.qsize()

    @property
    def rejections(self) -> dict[int, str]:
        """Why a student takes no replies from this teacher, by rank."""
        return dict(self._protocol.rejections)

    def close(self) -> None:
        """Say goodbye to all students and close the connections."""
        self._closing = True
        self._endpoints.close()
        self._transport.wake()
        self._thread.join(timeout=10)
        self._transport.close()

    def _run(self) -> None:
        try:
            # Half a heartbeat, so that no heartbeat is late by more than that.
            timeout_seconds = self.spec.heartbeat_seconds / 2
            while not (self._closing or self._protocol.is_finished):
                self._protocol.turn(timeout_seconds)
            self._protocol.say_goodbye()
            self._requests.put(None)
        except DskdError as error:
            self._requests.put(error)
        except Exception as error:
            # A bug here must reach the serving thread instead of ending this thread silently.
            reason = f"{type(error).__name__}: {error}"
            self._requests.put(LinkError(f"teacher {self.hello.teacher}: {reason}"))

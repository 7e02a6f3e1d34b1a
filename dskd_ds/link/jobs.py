"""Requests of a student that have no answer yet, and the futures of their answers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from dskd_ds.errors import DskdError, InputError
from dskd_ds.link import codec
from dskd_ds.link.messages import Array, Request, Wanted
from dskd_ds.link.transport import Frame


@dataclass(frozen=True)
class Answer:
    """The arrays of a reply, and what the reply cost."""

    arrays: dict[str, Array]
    teacher: str
    forward_seconds: float
    link_bytes: int
    """Bytes of request and reply together."""
    num_asked: int = 0
    """Positions that were looked up in a cache of teacher signal; 0 without one."""
    num_kept: int = 0
    """Those of them that the cache had."""


CheckReply = Callable[[dict[str, Array]], object]
"""Raises ValueError if the arrays of a reply are not what its request asked for."""


@dataclass
class Job:
    """A request without an answer."""

    request_id: int
    frames: list[Frame]
    future: Future[Answer]
    num_bytes: int
    """Bytes of the request and, at most, of its reply."""
    check: CheckReply | None = None


class Jobs:
    """The requests without an answer. All methods are thread-safe.

    The training threads add jobs; the link's thread takes up the new ones and settles them. After
    `fail_all` every new job fails at once with the same error.
    """

    def __init__(self, student: str, max_message_bytes: int, on_added: Callable[[], None]) -> None:
        """student: the student's name in error messages. on_added: called after a job was added."""
        self._student, self._max_message_bytes = student, max_message_bytes
        self._on_added = on_added
        self._lock = threading.Lock()
        self._open: dict[int, Job] = {}
        self._new: list[Job] = []
        self._failure: DskdError | None = None
        # Random, so that a late reply to an earlier process of this rank matches no request.
        self._next_id = int.from_bytes(os.urandom(6), "little")

    def add(
        self,
        arrays: dict[str, Array],
        wanted: Wanted,
        reply_bytes: int,
        check: CheckReply | None = None,
    ) -> Future[Answer]:
        """Queue one request and return the future of its answer.

        reply_bytes: the most bytes that the reply can have. check: of the reply. The future raises
        InputError if the request is longer than the link allows.
        """
        future: Future[Answer] = Future()
        with self._lock:
            if self._failure:
                future.set_exception(self._failure)
                return future
            request = Request(request_id=self._next_id, wanted=wanted)
            self._next_id += 1
            frames = codec.encode(request, arrays)
            size = codec.num_bytes(frames)
            if size > self._max_message_bytes:
                # The teacher's socket would close the connection silently, and so would the next
                # teacher's.
                future.set_exception(self._too_long(size))
                return future
            num_bytes = size + reply_bytes
            job = Job(request.request_id, frames, future, num_bytes=num_bytes, check=check)
            self._open[request.request_id] = job
            self._new.append(job)
            # Under the lock: once `fail_all` has run, the socket behind the callback may be closed.
            self._on_added()
        return future

    def _too_long(self, size: int) -> InputError:
        return InputError(
            f"{self._student}: a request has {size} bytes, more than"
            f" [link] max_message_bytes = {self._max_message_bytes}.\n"
            "  raise it, or set a smaller [train] micro_batch_blocks."
        )

    def take_new(self) -> list[Job]:
        """Return the jobs that were added since the last call, in their order."""
        with self._lock:
            new, self._new = self._new, []
            return new

    def frames_of(self, job_id: int) -> list[Frame]:
        """Return the frames of an open job."""
        with self._lock:
            return self._open[job_id].frames

    def problem_of_reply(self, job_id: int, arrays: dict[str, Array]) -> str | None:
        """Return what is wrong with a reply to an open job; None if nothing is."""
        with self._lock:
            job = self._open.get(job_id)
        if job is None or job.check is None:
            return None
        try:
            job.check(arrays)
        except ValueError as error:
            return str(error)
        return None

    def finish(self, job_id: int) -> Job | None:
        """Remove a job and return it; None if `fail_all` was called in the meantime."""
        with self._lock:
            return self._open.pop(job_id, None)

    def fail_all(self, error: DskdError) -> None:
        """Fail all open jobs, and every later one with the error of the first such call."""
        with self._lock:
            # The first error is the cause; a later one may only be that the link was closed.
            self._failure = self._failure or error
            jobs = list(self._open.values())
            self._open.clear()
            self._new.clear()
        for job in jobs:
            job.future.set_exception(error)

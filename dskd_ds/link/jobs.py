"""Requests of a student that have no answer yet, and the futures of their answers."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from dskd_ds.errors import DskdError, InputError
from dskd_ds.link import codec
from dskd_ds.link.messages import Array, Request, Wanted


@dataclass(frozen=True)
class Answer:
    """The arrays of a reply, and what the reply cost."""

    arrays: dict[str, Array]
    teacher: str
    forward_seconds: float
    link_bytes: int
    """Bytes of request and reply together."""


@dataclass
class Job:
    """A request that waits for a teacher, or for a teacher's reply."""

    request_id: int
    frames: list[codec.Frame]
    future: Future[Answer]


class JobQueue:
    """Jobs that wait for a teacher, in the order of their submission. All methods are thread-safe.

    After `fail` every new job fails at once with the same error.
    """

    def __init__(self, student: str, max_message_bytes: int, on_added: Callable[[], None]) -> None:
        """student: the student's name in error messages. on_added: called after a job was added."""
        self._student, self._max_message_bytes = student, max_message_bytes
        self._on_added = on_added
        self._lock = threading.Lock()
        self._waiting: deque[Job] = deque()
        self._failure: DskdError | None = None
        # Random, so that a late reply to an earlier process of this rank matches no request.
        self._next_id = int.from_bytes(os.urandom(6), "little")

    def add(self, arrays: dict[str, Array], wanted: Wanted) -> Future[Answer]:
        """Queue one request and return the future of its answer.

        The future raises InputError if the request is longer than the link allows.
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
            self._waiting.append(Job(request.request_id, frames, future))
            # Under the lock: once `fail` has run, the socket behind the callback may be closed.
            self._on_added()
        return future

    def _too_long(self, size: int) -> InputError:
        return InputError(
            f"{self._student}: a request has {size} bytes, more than"
            f" [link] max_message_bytes = {self._max_message_bytes}.\n"
            "  raise it, or set a smaller [train] micro_batch_blocks."
        )

    def take(self) -> Job | None:
        """Remove and return the first job; None if no job waits."""
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def put_back(self, jobs: Iterable[Job]) -> None:
        """Insert the jobs of a lost teacher before all others, in their order."""
        with self._lock:
            self._waiting.extendleft(reversed(list(jobs)))

    def fail(self, error: DskdError, in_flight: Iterable[Job]) -> None:
        """Fail all waiting jobs, the jobs `in_flight`, and every later one.

        If this is called again, later jobs still fail with the first error.
        """
        with self._lock:
            # The first error is the cause; a later one may only be that the link was closed.
            self._failure = self._failure or error
            jobs = [*self._waiting, *in_flight]
            self._waiting.clear()
        for job in jobs:
            job.future.set_exception(error)

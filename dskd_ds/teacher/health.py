"""Says how a teacher is, in a small file of the run directory: who waits for whom, and errors.

`WatchedLink` stands between the serving loop and the link and notes what passes. A thread writes
the file every few seconds, also while a forward pass takes long or no request comes.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import psutil

from dskd_ds.link import TeacherSide, Work
from dskd_ds.link.messages import Array
from dskd_ds.observe.memory import peak_host_bytes
from dskd_ds.observe.run_files import (
    PROGRESS_FOLDER,
    TEACHER_WRITE_SECONDS,
    RecordFile,
    TeacherHealth,
    read_records,
    teacher_file,
)


class WatchedLink:
    """A `TeacherSide` that measures how long it waits for requests, and keeps refusals."""

    def __init__(
        self,
        link: TeacherSide,
        run_dir: Path,
        replica: int,
        num_ranks: int = 1,
        name: str = "",
    ) -> None:
        """Start to write the teacher's file.

        num_ranks: that hold this teacher together. name: of the teacher, if the run has several.
        """
        self._link, self._replica, self._num_ranks = link, replica, num_ranks
        self._name = name
        self._run_dir = run_dir
        self._file = RecordFile(teacher_file(run_dir, replica))
        self._since = time.time()
        self._num_done = self._num_refused = 0
        self._last_error = ""
        self._clock = WaitClock(time.monotonic())
        self._end = threading.Event()
        remove_predecessors(run_dir, replica)
        self._thread = threading.Thread(target=self._keep_writing, name="health", daemon=True)
        self._thread.start()

    @property
    def rejections(self) -> dict[int, str]:
        """See TeacherSide."""
        return self._link.rejections

    @property
    def num_queued(self) -> int:
        """See TeacherSide."""
        return self._link.num_queued

    def next_request(self) -> Work | None:
        """See TeacherSide. The time in here is idle time."""
        self._clock.begin_wait(time.monotonic())
        try:
            return self._link.next_request()
        finally:
            self._clock.end_wait(time.monotonic())

    def reply(self, work: Work, arrays: dict[str, Array], forward_seconds: float) -> None:
        """See TeacherSide."""
        self._link.reply(work, arrays, forward_seconds)
        self._num_done += 1

    def fail(self, work: Work, reason: str) -> None:
        """See TeacherSide."""
        self._link.fail(work, reason)
        self._num_done += 1
        self._num_refused += 1
        self._note_error(reason)

    def give_back(self, work: Work, reason: str) -> None:
        """See TeacherSide."""
        self._link.give_back(work, reason)
        self._note_error(reason)

    def close(self) -> None:
        """See TeacherSide; then write the file for the last time."""
        self._link.close()
        self._end.set()
        self._thread.join()
        self._write("ended")

    def _note_error(self, reason: str) -> None:
        self._last_error = reason.splitlines()[0] if reason else ""

    def _keep_writing(self) -> None:
        self._write("serving")
        while not self._end.wait(TEACHER_WRITE_SECONDS):
            self._write("serving")

    def _write(self, phase: str) -> None:
        idle_share = self._clock.take_share(time.monotonic())
        record = TeacherHealth(
            rank=self._replica,
            host=socket.gethostname(),
            pid=os.getpid(),
            phase=phase,
            since=self._since,
            num_done=self._num_done,
            num_refused=self._num_refused,
            queue_length=self._link.num_queued,
            busy_share=1.0 - idle_share,
            idle_share=idle_share,
            last_error=self._last_error,
            rss_bytes=peak_host_bytes(),
            num_ranks=self._num_ranks,
            name=self._name,
        )
        self._file.write(record)


class WaitClock:
    """The share of time that one thread waits, between two looks of another thread."""

    def __init__(self, now: float) -> None:
        self._lock = threading.Lock()
        self._last_look = now
        self._waited = 0.0
        self._waits_since: float | None = None

    def begin_wait(self, now: float) -> None:
        """The thread begins to wait."""
        with self._lock:
            self._waits_since = now

    def end_wait(self, now: float) -> None:
        """The thread goes on."""
        with self._lock:
            if self._waits_since is not None:
                self._waited += now - self._waits_since
            self._waits_since = None

    def take_share(self, now: float) -> float:
        """Return the share of the time since the last call that the thread waited, 0 to 1.

        A wait that is not over counts as far as it has come.
        """
        with self._lock:
            if self._waits_since is not None:
                self._waited += now - self._waits_since
                self._waits_since = now
            elapsed = now - self._last_look
            share = self._waited / elapsed if elapsed > 0 else 0.0
            self._last_look, self._waited = now, 0.0
        return min(max(share, 0.0), 1.0)


def note_loading(run_dir: Path, replica: int, name: str = "") -> None:
    """Write the file of a teacher that loads its model and does not listen yet. name: its own."""
    record = TeacherHealth(
        rank=replica,
        host=socket.gethostname(),
        pid=os.getpid(),
        phase="loading",
        since=time.time(),
        name=name,
    )
    RecordFile(teacher_file(run_dir, replica)).write(record)


def remove_predecessors(run_dir: Path, replica: int) -> None:
    """Delete the files of teachers of this host and number whose processes are gone."""
    pattern = f"{PROGRESS_FOLDER}/teacher-{replica:05d}-*.json"
    for path, record in read_records(run_dir, pattern, TeacherHealth).items():
        if record.host == socket.gethostname() and not psutil.pid_exists(record.pid):
            try:
                path.unlink(missing_ok=True)
            except OSError:
                continue  # a read-only disk: the file only says what is over

"""A teacher's file says how long it waited, what it did, and why it refused."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import cast

import pytest

from dskd_ds.link import TeacherSide, Work
from dskd_ds.link.messages import Array, Request
from dskd_ds.observe.run_files import (
    RecordFile,
    TeacherHealth,
    read_record,
    read_records,
    teacher_file,
)
from dskd_ds.teacher.health import WaitClock, WatchedLink, note_loading

WORK = Work(student_rank=0, request=cast(Request, None), arrays={})
DEAD_PID = 2**22 + 1
"""More than the kernel's largest process id."""


class ShortLink:
    """A link that gives two requests and then ends; `close` waits for nothing."""

    def __init__(self) -> None:
        self.num_queued = 3
        self.rejections: dict[int, str] = {}
        self._left = 2
        self.closed = threading.Event()

    def next_request(self) -> Work | None:
        """Return a request, or None at the end."""
        self._left -= 1
        return None if self._left < 0 else WORK

    def reply(self, work: Work, arrays: dict[str, Array], forward_seconds: float) -> None:
        """Drop a reply."""

    def fail(self, work: Work, reason: str) -> None:
        """Drop a refusal."""

    def give_back(self, work: Work, reason: str) -> None:
        """Drop a goodbye."""

    def close(self) -> None:
        """Note the call."""
        self.closed.set()


def test_the_file_says_what_the_teacher_did(tmp_path: Path) -> None:
    note_loading(tmp_path, 4)
    path = teacher_file(tmp_path, 4)
    loading = read_record(path, TeacherHealth)
    assert loading is not None
    assert loading.phase == "loading"
    inner = ShortLink()
    link: TeacherSide = WatchedLink(inner, tmp_path, 4)
    link.next_request()
    link.reply(WORK, {}, 0.1)
    link.next_request()
    link.fail(WORK, "RuntimeError: out of memory\nmore")
    assert link.next_request() is None
    link.close()
    assert inner.closed.is_set()
    record = read_record(path, TeacherHealth)
    assert record is not None
    assert (record.rank, record.pid, record.phase) == (4, os.getpid(), "ended")
    assert (record.num_done, record.num_refused, record.queue_length) == (2, 1, 3)
    assert record.last_error == "RuntimeError: out of memory"
    assert record.rss_bytes > 1 << 20


def test_a_teacher_replaces_the_file_of_its_dead_predecessor(tmp_path: Path) -> None:
    def made(pid: int, host: str) -> TeacherHealth:
        return TeacherHealth(rank=0, host=host, pid=pid, phase="serving", since=1.0)

    own_host = socket.gethostname()
    folder = tmp_path / "progress"
    for name, pid, host in (
        ("dead", DEAD_PID, own_host),
        ("alive", os.getppid(), own_host),
        ("elsewhere", DEAD_PID, "another host"),
    ):
        RecordFile(folder / f"teacher-00000-{name}.json").write(made(pid, host))
    link = WatchedLink(ShortLink(), tmp_path, 0)
    link.close()
    left = {path.stem for path in read_records(tmp_path, "progress/*.json", TeacherHealth)}
    own = teacher_file(tmp_path, 0).stem
    assert left == {"teacher-00000-alive", "teacher-00000-elsewhere", own}


def test_a_disk_error_costs_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "progress").write_text("a file where the folder should be")
    link = WatchedLink(ShortLink(), tmp_path, 0)
    link.next_request()
    link.close()
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_waits_count_as_far_as_they_have_come() -> None:
    clock = WaitClock(0.0)
    assert clock.take_share(0.0) == 0.0
    clock.begin_wait(1.0)
    clock.end_wait(2.0)
    assert clock.take_share(4.0) == 0.25
    clock.begin_wait(6.0)
    assert clock.take_share(8.0) == 0.5
    assert clock.take_share(10.0) == 1.0
    clock.end_wait(11.0)
    assert clock.take_share(14.0) == 0.25

"""Opens the two sides of the link, and says what the rest of the package uses of them.

Both run over ZeroMQ. A transport other than that (transport.py) is a module like zeromq.py, with
`open_listener` and `open_dialer`, which are passed on here.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol

from dskd_ds.link.jobs import Answer, CheckReply
from dskd_ds.link.messages import Array, Hello, Wanted
from dskd_ds.link.student import StudentLink
from dskd_ds.link.teacher import TeacherLink
from dskd_ds.link.work import Work
from dskd_ds.spec.processes import LinkSpec


class StudentSide(Protocol):
    """Takes requests and gives replies; `StudentLink` says more."""

    @property
    def fingerprint(self) -> str | None:
        """What replies depend on besides their requests; None before the first teacher came."""
        ...

    def submit(
        self,
        arrays: dict[str, Array],
        wanted: Wanted,
        reply_bytes: int = 0,
        check: CheckReply | None = None,
    ) -> Future[Answer]:
        """Queue one request and return at once.

        reply_bytes: the most that its reply can have. check: of the reply; another teacher is asked
        if it raises ValueError.
        """
        ...

    def expect_no_restart(self) -> None:
        """From now on, `close` tells the teachers that this student does not come back."""
        ...

    def close(self) -> None:
        """Say goodbye to the teachers. Unanswered requests fail. May be called twice."""
        ...


class TeacherSide(Protocol):
    """Gives requests and takes replies; `TeacherLink` says more."""

    @property
    def rejections(self) -> dict[int, str]:
        """Why a student takes no replies from this teacher, by rank."""
        ...

    @property
    def num_queued(self) -> int:
        """Requests that have come and that `next_request` has not returned yet."""
        ...

    def next_request(self) -> Work | None:
        """Wait for a request and return it; None if this teacher's work is done."""
        ...

    def reply(self, work: Work, arrays: dict[str, Array], forward_seconds: float) -> None:
        """Send the reply to a request."""
        ...

    def fail(self, work: Work, reason: str) -> None:
        """Tell the student that its request cannot be answered."""
        ...

    def give_back(self, work: Work, reason: str) -> None:
        """Tell the student that this teacher cannot go on; call `close` next.

        The request goes to another teacher, or waits for one.
        """
        ...

    def close(self) -> None:
        """Say goodbye to all students."""
        ...


def open_student_side(
    run_dir: Path,
    rank: int,
    spec: LinkSpec,
    *,
    vocab_size: int,
    hidden_size: int,
    num_students: int,
    spans_nodes: bool,
    teacher_name: str = "",
) -> StudentSide:
    """Listen for teachers of these sizes. The arguments and errors are those of `StudentLink`."""
    return StudentLink(
        run_dir,
        rank,
        spec,
        vocab_size,
        hidden_size,
        num_students=num_students,
        spans_nodes=spans_nodes,
        teacher_name=teacher_name,
    )


def open_teacher_side(
    run_dir: Path,
    spec: LinkSpec,
    hello: Hello,
    num_students: int,
    *,
    waits_for_restart: bool,
    is_stop_wanted: Callable[[], bool],
) -> TeacherSide:
    """Find the run's students. The arguments are those of `TeacherLink`."""
    return TeacherLink(
        run_dir,
        spec,
        hello,
        num_students,
        waits_for_restart=waits_for_restart,
        is_stop_wanted=is_stop_wanted,
    )

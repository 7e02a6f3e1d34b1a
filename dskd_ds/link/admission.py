"""Which teachers may serve a student: of the expected sizes, and all with the same replies."""

from __future__ import annotations

from dskd_ds.errors import NoTeacherError
from dskd_ds.link.messages import Hello
from dskd_ds.spec.processes import LinkSpec

MAX_SESSIONS = 4096
"""Teachers whose last session is remembered; the longest absent ones are forgotten."""


class Admission:
    """Compares the hellos of teachers with what the run expects."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        """vocab_size, hidden_size: of the replies."""
        self._vocab_size, self._hidden_size = vocab_size, hidden_size
        self.fingerprint: str | None = None
        """Everything the replies depend on. That of the first teacher holds for the whole run, also
        after that teacher has left."""
        self.last_rejection = ""
        """Name of the last teacher that was rejected, and why."""
        self._sessions: dict[str, int] = {}
        """Number of the last session of each teacher."""

    def is_new_session(self, hello: Hello) -> bool:
        """Return whether a hello starts a session; false for a copy of an earlier hello."""
        return hello.session > self._sessions.get(hello.teacher, -1)

    def admit(self, hello: Hello) -> None:
        """A teacher is admitted: later ones must send the same replies."""
        self.fingerprint = hello.fingerprint
        self._sessions.pop(hello.teacher, None)
        self._sessions[hello.teacher] = hello.session
        if len(self._sessions) > MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]

    def mismatch(self, hello: Hello) -> str | None:
        """Return why a teacher cannot serve this run; None if it can."""
        if (hello.vocab_size, hello.hidden_size) != (self._vocab_size, self._hidden_size):
            return (
                f"it has vocabulary and hidden size {hello.vocab_size}, {hello.hidden_size};"
                f" this run expects {self._vocab_size}, {self._hidden_size}.\n"
                "  start it with this run's spec."
            )
        if self.fingerprint not in (None, hello.fingerprint):
            return (
                f"it is {hello.fingerprint}, an earlier teacher was {self.fingerprint}.\n"
                "  all teachers of a run must serve the same weights in the same number format,"
                " with the same sense index."
            )
        return None

    def no_teacher(self, student: str, address: str, spec: LinkSpec) -> NoTeacherError:
        """Return the error of a student that has waited for a teacher in vain."""
        last = f" The last one was rejected: {self.last_rejection}" if self.last_rejection else ""
        return NoTeacherError(
            f"{student}: no teacher came to {address} within"
            f" {spec.teacher_wait_seconds:g} s.{last}\n"
            "  start one (python -m dskd_ds.teacher --spec ...), give the launch teacher ranks"
            " ([topology] num_teachers), set a [link] address that teachers reach, or wait"
            " longer ([link] teacher_wait_seconds)."
        )

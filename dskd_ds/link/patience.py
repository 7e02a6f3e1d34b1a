"""How long teachers may be silent: longer for one that fell silent before it could answer.

Heartbeats wait behind a reply on the same connection. If a reply takes longer to arrive than a
teacher may be silent, the teacher is lost, comes back, and is asked again: without more patience
that never ends.
"""

from __future__ import annotations

MAX_NAMES = 1024
"""Teachers whose losses are remembered; the longest absent ones are forgotten. A teacher that is
started again has another name, so there may be any number of them."""


class Patience:
    """The silence that each teacher is allowed. All times are in seconds."""

    def __init__(self, dead_after: float) -> None:
        """dead_after: what a teacher is allowed that was never lost."""
        self._dead_after = dead_after
        self._num_losses: dict[str, int] = {}
        """How often a teacher fell silent with requests in flight since its last quick answer."""

    def seconds(self, name: str) -> float:
        """Return the silence that a teacher is allowed: twice as much after each loss.

        That stays below two deadlines: a longer silence with requests in flight is a hang.
        """
        return self._dead_after * float(2 ** self._num_losses.get(name, 0))

    def note_loss(self, name: str) -> None:
        """A teacher fell silent while it held requests."""
        num_losses = self._num_losses.pop(name, 0) + 1
        self._num_losses[name] = num_losses
        if len(self._num_losses) > MAX_NAMES:
            del self._num_losses[next(iter(self._num_losses))]

    def note_answer(self, name: str, longest_silence: float) -> None:
        """A teacher has answered. longest_silence: since its answer before.

        After a long silence it keeps its longer time, because the next reply may need it too.
        """
        if longest_silence <= self._dead_after:
            self._num_losses.pop(name, None)

    def way_out(self, name: str) -> str:
        """Return what to say of a teacher that fails again; empty if it never fell silent."""
        if name not in self._num_losses:
            return ""
        return (
            "; replies may take longer to arrive than [link] dead_after_seconds ="
            f" {self._dead_after:g}: raise it, or use a faster network ([link] address)"
        )

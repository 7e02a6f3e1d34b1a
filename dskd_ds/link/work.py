"""A request that a teacher works on, and the frames of its answer."""

from __future__ import annotations

from dataclasses import dataclass

from dskd_ds.link import codec
from dskd_ds.link.messages import MAX_FAILURE_CHARACTERS, Array, Failure, Reply, Request
from dskd_ds.link.transport import Frame


@dataclass(frozen=True)
class Work:
    """A request, and the student that sent it."""

    student_rank: int
    request: Request
    arrays: dict[str, Array]
    session: int = 0
    """Number of the session in which the request came; a new hello starts a new session.

    A student of another session (greeted again, or restarted) does not wait for a reply to it.
    """


def reply_frames(
    work: Work, arrays: dict[str, Array], forward_seconds: float, max_message_bytes: int
) -> list[Frame]:
    """Return the frames of a reply; of a failure if the reply is longer than the link allows."""
    message = Reply(request_id=work.request.request_id, forward_seconds=forward_seconds)
    frames = codec.encode(message, arrays)
    size = codec.num_bytes(frames)
    if size <= max_message_bytes:
        return frames
    # The student's transport would close the connection silently.
    return failure_frames(
        work,
        f"the reply has {size} bytes, more than [link] max_message_bytes = {max_message_bytes}.\n"
        "  raise it, or set a smaller [train] micro_batch_blocks",
    )


def failure_frames(work: Work, reason: str, is_leaving: bool = False) -> list[Frame]:
    """Return the frames that tell a student why its request cannot be answered.

    is_leaving: whether this teacher ends because it cannot go on.
    """
    text = reason[:MAX_FAILURE_CHARACTERS]
    request_id = work.request.request_id
    return codec.encode(Failure(request_id=request_id, text=text, is_leaving=is_leaving))

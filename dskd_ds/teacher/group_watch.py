"""Notices that another rank of this teacher has ended, has failed, or stands still.

A collective call waits for ever for a rank that is stopped, and the others cannot compute without
it. So a thread of each rank exchanges beats with the first rank, and ends the process when one is
missing. Only time in which this thread runs counts: a pause of the whole machine is no silence.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import zmq

from dskd_ds.spec.processes import LinkSpec
from dskd_ds.teacher.group_channel import LINGER_MILLISECONDS, Socket

LOOK_SECONDS = 0.1
MAX_LOOK_SECONDS = 0.5
"""Longest time that one look counts for; a longer one was a pause of this process."""
BEAT, FAILED, REFUSED = b"beat", b"failed", b"refused"
MAX_REASON_CHARACTERS = 3000
CAUSE_SECONDS = 2.0
"""How long a rank whose collective call failed waits for the cause, which another rank may send."""


OnLost = Callable[[str, bool], None]
"""Gets the reason for which a teacher must end, and whether the request that it computes is to
blame."""


class GroupWatch:
    """Exchanges beats between the first rank of a teacher and the others."""

    def __init__(self, address: str, rank: int, size: int, spec: LinkSpec, on_lost: OnLost) -> None:
        """Start to watch.

        address: at which the first rank listens. on_lost: called once, in any thread; it should end
        the process.
        """
        self._rank, self._spec, self._on_lost = rank, spec, on_lost
        self._others = range(1, size) if rank == 0 else range(1)
        self._silent_seconds = dict.fromkeys(self._others, 0.0)
        self._since_beat_seconds = 0.0
        self._busy_seconds: float | None = None
        self._longest_seconds = 0.0
        self._work_lock = threading.Lock()
        self._last_look = time.monotonic()
        self._outbox: deque[list[bytes]] = deque()
        self._is_ending = threading.Lock()
        self._end = threading.Event()
        self._socket = _open_socket(address, rank)
        self._thread = threading.Thread(target=self._run, name="teacher's ranks", daemon=True)
        self._thread.start()

    def begin_work(self) -> None:
        """Note that this rank begins to compute a request with the others."""
        with self._work_lock:
            self._busy_seconds = 0.0

    def end_work(self) -> None:
        """Note that the request is computed."""
        with self._work_lock:
            if self._busy_seconds is not None:
                self._longest_seconds = max(self._longest_seconds, self._busy_seconds)
            self._busy_seconds = None

    def fail(self, reason: str, is_refusal: bool) -> None:
        """End this teacher because this rank failed.

        is_refusal: whether the request is to blame. Otherwise a collective call may have failed,
        and the rank that is its cause may say why.
        """
        if not is_refusal:
            time.sleep(CAUSE_SECONDS)
        self._end_teacher(reason, is_refusal)

    @property
    def is_ending(self) -> bool:
        """Whether a thread is ending this teacher."""
        return self._is_ending.locked()

    def close(self) -> None:
        """Stop watching."""
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.is_set():
            self._look()
        self._socket.close()

    def _look(self) -> None:
        """Send what is due, read what has come, and end the teacher if a rank is lost."""
        now = time.monotonic()
        seconds = min(now - self._last_look, MAX_LOOK_SECONDS)
        self._last_look = now
        for rank in self._others:
            self._silent_seconds[rank] += seconds
        self._send_due(seconds)
        if self._socket.poll(int(LOOK_SECONDS * 1000)):
            while self._socket.poll(0):
                self._read(self._socket.recv_multipart())
        for rank, silent_seconds in self._silent_seconds.items():
            if silent_seconds > self._spec.dead_after_seconds:
                self._end_teacher(
                    f"rank {rank} of this teacher has ended or stands still: it was silent for"
                    f" {self._spec.dead_after_seconds:g} s ([link] dead_after_seconds)."
                )
        self._check_work(seconds)

    def _check_work(self, seconds: float) -> None:
        """End the teacher if a request takes too long: then a rank hangs in a collective call."""
        with self._work_lock:
            if self._busy_seconds is None:
                return
            self._busy_seconds += seconds
            busy_seconds = self._busy_seconds
        factor_seconds = self._spec.deadline_factor * self._longest_seconds
        limit_seconds = max(self._spec.deadline_seconds, factor_seconds)
        if busy_seconds > limit_seconds:
            self._end_teacher(
                f"the ranks of this teacher have computed one request for {limit_seconds:.0f} s"
                " ([link] deadline_seconds, deadline_factor): one of them hangs, or requests need"
                " longer. Then raise deadline_seconds."
            )

    def _send_due(self, seconds: float) -> None:
        while self._outbox:
            self._send(self._outbox.popleft())
        self._since_beat_seconds += seconds
        if self._since_beat_seconds >= self._spec.heartbeat_seconds:
            self._since_beat_seconds = 0.0
            self._send([BEAT])

    def _send(self, frames: list[bytes]) -> None:
        """Send to the other ranks; the socket drops what nobody takes."""
        if self._rank != 0:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
            return
        for rank in self._others:
            self._socket.send_multipart([_name(rank), *frames], zmq.NOBLOCK)

    def _read(self, frames: list[bytes]) -> None:
        sender = 0
        if self._rank == 0:
            names = {_name(rank): rank for rank in self._others}
            sender = names.get(frames.pop(0), -1)
        if sender not in self._silent_seconds or not frames:
            return
        self._silent_seconds[sender] = 0.0
        if frames[0] in (FAILED, REFUSED) and len(frames) == 2:
            reason = frames[1][: 4 * MAX_REASON_CHARACTERS].decode(errors="replace")
            text = f"rank {sender} of this teacher failed: {reason}"
            self._end_teacher(text, is_refusal=frames[0] == REFUSED)

    def _end_teacher(self, reason: str, is_refusal: bool = False) -> None:
        """Tell the other ranks, and call `on_lost`. The first caller's reason counts."""
        if not self._is_ending.acquire(blocking=False):  # never released
            return
        kind = REFUSED if is_refusal else FAILED
        frames = [kind, reason[:MAX_REASON_CHARACTERS].encode()]
        if threading.current_thread() is self._thread:
            self._send(frames)
        else:
            self._outbox.append(frames)
            time.sleep(3 * LOOK_SECONDS)  # the thread sends it
        self._on_lost(reason, is_refusal)
        self._end.set()


def _open_socket(address: str, rank: int) -> Socket:
    """Listen as the first rank, or connect to it under this rank's name."""
    kind = zmq.ROUTER if rank == 0 else zmq.DEALER
    socket: Socket = zmq.Context.instance().socket(kind)
    socket.setsockopt(zmq.LINGER, LINGER_MILLISECONDS)
    if rank == 0:
        socket.bind(address)
    else:
        socket.setsockopt(zmq.IDENTITY, _name(rank))
        socket.connect(address)
    return socket


def _name(rank: int) -> bytes:
    """Return the name of a rank's socket; zmq reserves names that begin with a zero byte."""
    return f"rank {rank}".encode()

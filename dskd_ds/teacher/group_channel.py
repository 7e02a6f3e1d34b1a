"""Carries requests from the first rank of a teacher to its other ranks.

The requests are messages of the link: typed arrays with checksums, never pickles (link/codec.py).
They go through unix sockets in a folder of the user that is closed to others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import zmq

from dskd_ds.errors import DskdError
from dskd_ds.link import codec
from dskd_ds.link.messages import Array, Request, Wanted
from dskd_ds.spec.processes import LinkSpec

Socket = zmq.Socket[bytes]
LINGER_MILLISECONDS = 1000


class LostRankError(DskdError):
    """A rank of this teacher has ended or stands still, so the teacher cannot go on."""


@dataclass(frozen=True)
class SharedRequest:
    """What every rank of a teacher must compute together."""

    arrays: dict[str, Array]
    wanted: Wanted


def without_senses(
    arrays: dict[str, Array], wanted: Wanted, ranked_positions: Array
) -> SharedRequest:
    """Return a request without the choice of senses, which the first rank does alone.

    ranked_positions: [K] all positions whose top k is needed, those of the senses included.
    """
    return SharedRequest(
        arrays=arrays
        | {
            "top_k_positions": ranked_positions.astype(np.int32),
            "targets": np.zeros((0, 0), np.int32),
            "sample_keys": np.zeros((0, 2), np.int64),
        },
        wanted=wanted.model_copy(update={"senses": None, "candidates": ()}),
    )


class RequestSender:
    """The first rank's end. Used by one thread."""

    def __init__(self, addresses: Sequence[str], spec: LinkSpec) -> None:
        """Listen at one address per other rank."""
        self._sockets: list[Socket] = []
        for address in addresses:
            socket: Socket = zmq.Context.instance().socket(zmq.PUSH)
            socket.setsockopt(zmq.LINGER, LINGER_MILLISECONDS)
            # A rank that has ended takes nothing, and sending would wait for ever.
            socket.setsockopt(zmq.SNDTIMEO, int(spec.dead_after_seconds * 1000))
            socket.bind(address)
            self._sockets.append(socket)

    def send(self, request: SharedRequest) -> None:
        """Send a request to all other ranks. Raises LostRankError if one takes nothing."""
        message = Request(request_id=0, wanted=request.wanted)
        self._send(codec.encode(message, request.arrays))

    def send_end(self) -> None:
        """Tell all other ranks that there are no more requests; one that is gone is left out."""
        for socket in self._sockets:
            socket.setsockopt(zmq.SNDTIMEO, LINGER_MILLISECONDS)
        try:
            self._send([b""])
        except LostRankError:
            return

    def _send(self, frames: Sequence[bytes | memoryview]) -> None:
        for rank, socket in enumerate(self._sockets, start=1):
            try:
                socket.send_multipart(frames)
            except zmq.Again:
                raise LostRankError(f"rank {rank} of this teacher takes no requests.") from None

    def close(self) -> None:
        """Close the sockets; what is queued is still sent, for at most a second."""
        for socket in self._sockets:
            socket.close()


class RequestReceiver:
    """The end of another rank. Used by one thread."""

    def __init__(self, address: str, spec: LinkSpec) -> None:
        """Connect to the first rank."""
        self._socket: Socket = zmq.Context.instance().socket(zmq.PULL)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, spec.max_message_bytes)
        self._socket.connect(address)

    def receive(self) -> SharedRequest | None:
        """Wait for a request and return it; None if there are no more.

        Signals are handled while it waits. Raises LinkError if the message is invalid.
        """
        frames = self._socket.recv_multipart()
        if frames == [b""]:
            return None
        message, arrays = codec.decode(frames, "the first rank of this teacher")
        assert isinstance(message, Request)
        return SharedRequest(arrays, message.wanted)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

"""What the link needs of a transport: it carries messages, each a list of frames, between peers.

ZeroMQ is such a transport (zeromq.py). Nothing else in the package imports zmq, except for making
key pairs. Both ends of the link expect that a transport may lose, repeat, delay and reorder whole
messages; it must not change them unnoticed, so each message carries checksums (codec.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dskd_ds.link.keys import Endpoint

Frame = bytes | memoryview
Peer = bytes
"""Names one connection. A peer that connects again gets another name."""


class PeerGoneError(Exception):
    """A message cannot be sent: the connection is closed, or too much waits to be sent on it."""


@dataclass(frozen=True)
class Received:
    """One message that has arrived."""

    peer: Peer
    frames: list[Frame]


class Transport(Protocol):
    """The messages of one process. Only `wake` may be called by several threads."""

    @property
    def peers(self) -> list[Peer]:
        """The connections that messages can be sent on, as far as this side knows."""
        ...

    def send(self, peer: Peer, frames: Sequence[Frame]) -> None:
        """Queue one message and return at once; the frames must not be changed any more.

        Raises PeerGoneError if the message cannot be queued.
        """
        ...

    def poll(self, timeout_seconds: float) -> list[Received]:
        """Wait for messages, a call of `wake`, or the timeout; return what has arrived.

        A call returns a bounded number of messages, so that heartbeats go on under any flood.
        """
        ...

    def wake(self) -> None:
        """Make the present or the next `poll` return. Any thread may call it."""
        ...

    def close(self) -> None:
        """Close all connections. What is queued is still sent, for at most a few seconds."""
        ...


class Listener(Transport, Protocol):
    """The side that peers connect to."""

    @property
    def address(self) -> str:
        """The address that peers connect to."""
        ...


class Dialer(Transport, Protocol):
    """The side that connects to others."""

    def connect(self, endpoint: Endpoint) -> Peer:
        """Open a connection and return at once; the transport goes on trying in the background."""
        ...

    def disconnect(self, peer: Peer) -> None:
        """Close a connection. What is queued on it is still sent, for a moment."""
        ...

"""Transports for tests: one within a process, and a proxy that makes any transport unreliable."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dskd_ds.link.keys import Endpoint, Published
from dskd_ds.link.transport import Frame, Peer, PeerGoneError, Received, Transport


class Network:
    """Connects the listeners and dialers of one process; messages arrive at once."""

    def __init__(self) -> None:
        self.listeners: dict[str, MemoryListener] = {}
        self._numbers = itertools.count()

    def listener(self) -> MemoryListener:
        """Return a listener at a new address."""
        made = MemoryListener(f"memory://{next(self._numbers)}")
        self.listeners[made.address] = made
        return made

    def dialer(self) -> MemoryDialer:
        """Return a dialer that reaches all listeners."""
        return MemoryDialer(self)

    def connect(self, address: str, dialer: MemoryDialer) -> tuple[Peer, MemoryListener | None]:
        """Open a connection, whose name is the same on both sides. Nobody may listen there."""
        peer = b"%d" % next(self._numbers)
        listener = self.listeners.get(address)
        if listener:
            listener.dialers[peer] = dialer
        return peer, listener


class _Inbox:
    def __init__(self) -> None:
        self.inbox: deque[Received] = deque()

    @property
    def num_bytes(self) -> int:
        """Bytes that have arrived and were not polled yet."""
        return sum(len(frame) for received in self.inbox for frame in received.frames)

    def deliver(self, peer: Peer, frames: Sequence[Frame]) -> None:
        self.inbox.append(Received(peer, [bytes(frame) for frame in frames]))

    def poll(self, _timeout_seconds: float) -> list[Received]:
        received = list(self.inbox)
        self.inbox.clear()
        return received

    def wake(self) -> None:
        pass


class MemoryListener(_Inbox):
    """See Listener."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address
        self.dialers: dict[Peer, MemoryDialer] = {}

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(Published(self.address, "one"), None)

    @property
    def peers(self) -> list[Peer]:
        return list(self.dialers)

    def send(self, peer: Peer, frames: Sequence[Frame]) -> None:
        if peer not in self.dialers:
            raise PeerGoneError("the connection is closed")
        self.dialers[peer].deliver(peer, frames)

    def close(self) -> None:
        self.dialers.clear()


class MemoryDialer(_Inbox):
    """See Dialer."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = network
        self.listeners: dict[Peer, MemoryListener | None] = {}

    @property
    def peers(self) -> list[Peer]:
        return list(self.listeners)

    def connect(self, endpoint: Endpoint) -> Peer:
        peer, listener = self._network.connect(endpoint.address, self)
        self.listeners[peer] = listener
        return peer

    def disconnect(self, peer: Peer) -> None:
        listener = self.listeners.pop(peer, None)
        if listener:
            listener.dialers.pop(peer, None)

    def send(self, peer: Peer, frames: Sequence[Frame]) -> None:
        if peer not in self.listeners:
            raise PeerGoneError("the connection is closed")
        listener = self.listeners[peer]
        if listener:
            listener.deliver(peer, frames)

    def close(self) -> None:
        for peer in self.peers:
            self.disconnect(peer)


@dataclass(frozen=True)
class Faults:
    """What happens to a message; probabilities, and the longest delay in seconds."""

    drop: float = 0.0
    repeat: float = 0.0
    delay: float = 0.0
    longest_delay: float = 0.0


class Unreliable:
    """A proxy in front of a transport: what arrives may be dropped, repeated, late, or overtaken.

    A repeated message comes twice, each time with a delay of its own.
    """

    def __init__(
        self, inner: Transport, faults: Faults, draw: random.Random, clock: Callable[[], float]
    ) -> None:
        self._inner, self._faults, self._draw, self._clock = inner, faults, draw, clock
        self._late: list[tuple[float, int, Received]] = []
        self._numbers = itertools.count()
        self.num_dropped = self.num_repeated = self.num_late = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)  # everything else is the transport's own

    def poll(self, timeout_seconds: float) -> list[Received]:
        now = self._clock()
        until_next = max(0.0, self._late[0][0] - now) if self._late else timeout_seconds
        for received in self._inner.poll(min(timeout_seconds, until_next)):
            self._pass_on(received, self._clock())
        arrived: list[Received] = []
        while self._late and self._late[0][0] <= self._clock():
            arrived.append(heapq.heappop(self._late)[2])
        return arrived

    def _pass_on(self, received: Received, now: float) -> None:
        if self._draw.random() < self._faults.drop:
            self.num_dropped += 1
            return
        is_repeated = self._draw.random() < self._faults.repeat
        self.num_repeated += is_repeated
        for _ in range(1 + is_repeated):
            is_late = self._draw.random() < self._faults.delay
            self.num_late += is_late
            delay = self._draw.uniform(0.0, self._faults.longest_delay) if is_late else 0.0
            heapq.heappush(self._late, (now + delay, next(self._numbers), received))

"""The transport over ZeroMQ: encrypted sockets with bounded queues.

A student binds one ROUTER socket; a teacher connects one DEALER socket per student.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Sequence
from pathlib import Path

import zmq
from zmq.auth.thread import ThreadAuthenticator

from dskd_ds.link import keys
from dskd_ds.link.address import ListenAddress, invalid_address
from dskd_ds.link.transport import Dialer, Frame, Listener, Peer, PeerGoneError, Received
from dskd_ds.spec.processes import MAX_CREDITS, LinkSpec

MAX_FRAMES = 32
"""More than the frames of any message: prefix, header, and up to 15 arrays."""
MAX_MESSAGES_PER_POLL = 256
MAX_KNOWN_PEERS = 4096
"""A listener forgets the oldest connections beyond that. A run has far fewer teachers."""
LINGER_MILLISECONDS = 2000
"""How long a closed socket goes on sending what is queued."""
DISCONNECT_LINGER_MILLISECONDS = 500
"""The same for the connection to one peer that is dropped while the others go on."""

_waker_numbers = itertools.count()
Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]


def open_listener(run_dir: Path, spec: LinkSpec, listen: ListenAddress) -> Listener:
    """Listen at an address of this machine, on a free port.

    Raises InputError if this machine cannot listen at the address, LinkError if the run's keys are
    open to other users.
    """
    return ZeroMQListener(spec, keys.run_keys(run_dir) if spec.encrypt else None, listen)


def open_dialer(spec: LinkSpec) -> Dialer:
    """Return a transport that can connect to endpoints."""
    return ZeroMQDialer(spec)


class ZeroMQListener:
    """A ROUTER socket that admits only holders of the run's teacher key."""

    def __init__(
        self, spec: LinkSpec, run_keys: keys.LinkKeys | None, listen: ListenAddress
    ) -> None:
        """run_keys: None if the link is not encrypted. Raises InputError."""
        self._context: Context = zmq.Context()
        # Before the socket is bound: without an authenticator ZeroMQ admits any key.
        self._authenticator = _start_authenticator(self._context, run_keys) if run_keys else None
        self._router: Socket = self._context.socket(zmq.ROUTER)
        # Sending to a peer that is gone is then an error, instead of being dropped silently.
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        _set_limits(self._router, spec)
        if run_keys:
            pair = run_keys.student
            self._router.curve_server = True
            self._router.curve_publickey, self._router.curve_secretkey = pair.public, pair.secret
        try:
            port = self._router.bind_to_random_port(f"tcp://{listen.interface}")
        except zmq.ZMQError as error:
            self._close(linger_milliseconds=0)
            raise invalid_address(
                spec, f"this machine cannot listen at {listen.interface} ({error})"
            ) from None
        self._address = f"tcp://{listen.host}:{port}"
        self._waker = Waker(self._context)
        self._poller = zmq.Poller()
        self._poller.register(self._router, zmq.POLLIN)
        self._poller.register(self._waker.reader, zmq.POLLIN)
        self._peers: dict[Peer, None] = {}

    @property
    def address(self) -> str:
        """See Listener."""
        return self._address

    @property
    def peers(self) -> list[Peer]:
        """See Transport. Peers that have sent a message, the oldest first."""
        return list(self._peers)

    def send(self, peer: Peer, frames: Sequence[Frame]) -> None:
        """See Transport."""
        try:
            _send(self._router, [peer, *frames])
        except zmq.ZMQError as error:
            self._peers.pop(peer, None)
            raise PeerGoneError(str(error)) from None

    def poll(self, timeout_seconds: float) -> list[Received]:
        """See Transport."""
        ready = dict(self._poller.poll(timeout=int(timeout_seconds * 1000)))
        if self._waker.reader in ready:
            self._waker.drain()
        received: list[Received] = []
        while len(received) < MAX_MESSAGES_PER_POLL and self._router.poll(0):
            identity, *frames = _receive(self._router)
            peer = bytes(identity)
            self._remember(peer)
            received.append(Received(peer, frames))
        return received

    def wake(self) -> None:
        """See Transport."""
        self._waker.wake()

    def close(self) -> None:
        """See Transport."""
        self._close(LINGER_MILLISECONDS)

    def _remember(self, peer: Peer) -> None:
        self._peers.setdefault(peer)
        if len(self._peers) > MAX_KNOWN_PEERS:
            del self._peers[next(iter(self._peers))]

    def _close(self, linger_milliseconds: int) -> None:
        if self._authenticator:
            self._authenticator.stop()
        self._context.destroy(linger=linger_milliseconds)


class ZeroMQDialer:
    """A DEALER socket per connection. ZeroMQ connects in the background and retries."""

    def __init__(self, spec: LinkSpec) -> None:
        self._spec = spec
        self._context: Context = zmq.Context()
        self._waker = Waker(self._context)
        self._poller = zmq.Poller()
        self._poller.register(self._waker.reader, zmq.POLLIN)
        self._sockets: dict[Peer, Socket] = {}
        self._numbers = itertools.count()

    @property
    def peers(self) -> list[Peer]:
        """See Transport."""
        return list(self._sockets)

    def connect(self, endpoint: keys.Endpoint) -> Peer:
        """See Dialer."""
        dealer: Socket = self._context.socket(zmq.DEALER)
        _set_limits(dealer, self._spec)
        if endpoint.keys:
            pair = endpoint.keys.teacher
            dealer.curve_serverkey = endpoint.keys.student.public
            dealer.curve_publickey, dealer.curve_secretkey = pair.public, pair.secret
        dealer.connect(endpoint.address)
        self._poller.register(dealer, zmq.POLLIN)
        peer = str(next(self._numbers)).encode()
        self._sockets[peer] = dealer
        return peer

    def disconnect(self, peer: Peer) -> None:
        """See Dialer."""
        socket = self._sockets.pop(peer, None)
        if socket:
            self._poller.unregister(socket)
            socket.close(linger=DISCONNECT_LINGER_MILLISECONDS)

    def send(self, peer: Peer, frames: Sequence[Frame]) -> None:
        """See Transport."""
        if peer not in self._sockets:
            raise PeerGoneError("the connection is closed")
        try:
            _send(self._sockets[peer], frames)
        except zmq.ZMQError as error:
            raise PeerGoneError(str(error)) from None

    def poll(self, timeout_seconds: float) -> list[Received]:
        """See Transport."""
        ready = dict(self._poller.poll(timeout=int(timeout_seconds * 1000)))
        if self._waker.reader in ready:
            self._waker.drain()
        received: list[Received] = []
        # Each connection gets an equal share, so that none can keep the others from being read.
        share = max(1, MAX_MESSAGES_PER_POLL // max(1, len(self._sockets)))
        for peer, socket in self._sockets.items():
            for _ in range(share):
                if not socket.poll(0):
                    break
                received.append(Received(peer, _receive(socket)))
        return received

    def wake(self) -> None:
        """See Transport."""
        self._waker.wake()

    def close(self) -> None:
        """See Transport."""
        self._context.destroy(linger=LINGER_MILLISECONDS)


class Waker:
    """Wakes a thread that polls sockets. Only `wake` may be called from other threads."""

    def __init__(self, context: Context) -> None:
        name = f"inproc://wake-{next(_waker_numbers)}"
        self.reader: Socket = context.socket(zmq.PAIR)
        """Becomes readable when `wake` was called; register it with the poller."""
        self.reader.bind(name)
        self._writer: Socket = context.socket(zmq.PAIR)
        self._writer.connect(name)
        self._lock = threading.Lock()

    def wake(self) -> None:
        """Make `reader` readable."""
        with self._lock, contextlib.suppress(zmq.Again):  # a full queue is readable already
            self._writer.send(b"", zmq.NOBLOCK)

    def drain(self) -> None:
        """Remove all pending wake-ups."""
        try:
            while True:
                self.reader.recv(zmq.NOBLOCK)
        except zmq.Again:
            return


class _OnlyTeacherKey:
    """Admits the one client key of the run (the interface is pyzmq's)."""

    def __init__(self, public: bytes) -> None:
        self.public = public

    def callback(self, _domain: str, key: bytes) -> bool:
        return key == self.public


def _start_authenticator(context: Context, run_keys: keys.LinkKeys) -> ThreadAuthenticator:
    """Let only holders of the run's teacher key connect to this context's servers."""
    authenticator = ThreadAuthenticator(context)
    authenticator.start()
    authenticator.configure_curve_callback(
        domain="*", credentials_provider=_OnlyTeacherKey(run_keys.teacher.public)
    )
    return authenticator


def _set_limits(socket: Socket, spec: LinkSpec) -> None:
    socket.setsockopt(zmq.LINGER, LINGER_MILLISECONDS)
    socket.setsockopt(zmq.MAXMSGSIZE, spec.max_message_bytes)
    # Credits bound the messages in flight; the high-water marks are only a safety net.
    socket.setsockopt(zmq.SNDHWM, 2 * MAX_CREDITS)
    socket.setsockopt(zmq.RCVHWM, 2 * spec.credits + 16)


def _send(socket: Socket, frames: Sequence[Frame]) -> None:
    """Send without copying and without waiting.

    Raises zmq.ZMQError if the peer is gone or its queue is full.
    """
    socket.send_multipart(frames, flags=zmq.NOBLOCK, copy=False)


def _receive(socket: Socket) -> list[Frame]:
    """Return one message that has arrived, as views of ZeroMQ's buffers.

    Of a message with more frames than any valid one, only MAX_FRAMES are kept: it is then refused.
    """
    frames: list[Frame] = []
    has_more = True
    while has_more:
        frame = socket.recv(flags=zmq.NOBLOCK, copy=False)
        has_more = bool(frame.more)
        if len(frames) < MAX_FRAMES:
            frames.append(frame.buffer)
    return frames

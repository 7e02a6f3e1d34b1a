"""ZeroMQ sockets of both sides of the link: encrypted, with bounded queues and a waker."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence

import zmq
from zmq.auth.thread import ThreadAuthenticator

from dskd_ds.link.address import ListenAddress, invalid_address
from dskd_ds.link.codec import Frame
from dskd_ds.link.keys import LinkKeys
from dskd_ds.spec.processes import MAX_CREDITS, LinkSpec

MAX_FRAMES = 32
"""More than the frames of any message: identity, prefix, header, and up to 15 arrays."""
LINGER_MILLISECONDS = 2000
"""How long a closed socket goes on sending what is queued."""

_waker_numbers = itertools.count()
Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]


class _OnlyTeacherKey:
    """Admits the one client key of the run (the interface is pyzmq's)."""

    def __init__(self, public: bytes) -> None:
        self.public = public

    def callback(self, _domain: str, key: bytes) -> bool:
        return key == self.public


def start_authenticator(context: Context, keys: LinkKeys) -> ThreadAuthenticator:
    """Let only holders of the run's teacher key connect to this context's servers."""
    authenticator = ThreadAuthenticator(context)
    authenticator.start()
    authenticator.configure_curve_callback(
        domain="*", credentials_provider=_OnlyTeacherKey(keys.teacher.public)
    )
    return authenticator


def student_socket(
    context: Context, spec: LinkSpec, keys: LinkKeys | None, listen: ListenAddress
) -> tuple[Socket, str]:
    """Return a ROUTER socket bound to a free port, and the address that teachers connect to.

    keys: None if the link is not encrypted.
    Raises InputError if this machine cannot listen at the address.
    """
    router = context.socket(zmq.ROUTER)
    # Sending to a peer that is gone is then an error, instead of being dropped silently.
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    _set_limits(router, spec)
    if keys:
        router.curve_server = True
        router.curve_publickey, router.curve_secretkey = keys.student.public, keys.student.secret
    try:
        port = router.bind_to_random_port(f"tcp://{listen.interface}")
    except zmq.ZMQError as error:
        raise invalid_address(
            spec, f"this machine cannot listen at {listen.interface} ({error})"
        ) from None
    return router, f"tcp://{listen.host}:{port}"


def teacher_socket(context: Context, spec: LinkSpec, keys: LinkKeys | None, address: str) -> Socket:
    """Return a DEALER socket that connects to a student's address.

    ZeroMQ connects in the background and retries. keys: None if the link is not encrypted.
    """
    dealer = context.socket(zmq.DEALER)
    _set_limits(dealer, spec)
    if keys:
        dealer.curve_serverkey = keys.student.public
        dealer.curve_publickey, dealer.curve_secretkey = keys.teacher.public, keys.teacher.secret
    dealer.connect(address)
    return dealer


def _set_limits(socket: Socket, spec: LinkSpec) -> None:
    socket.setsockopt(zmq.LINGER, LINGER_MILLISECONDS)
    socket.setsockopt(zmq.MAXMSGSIZE, spec.max_message_bytes)
    # Credits bound the messages in flight; the high-water marks are only a safety net.
    socket.setsockopt(zmq.SNDHWM, 2 * MAX_CREDITS)
    socket.setsockopt(zmq.RCVHWM, 2 * MAX_CREDITS)


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
        with self._lock:
            self._writer.send(b"")

    def drain(self) -> None:
        """Remove all pending wake-ups."""
        try:
            while True:
                self.reader.recv(zmq.NOBLOCK)
        except zmq.Again:
            return


def send(socket: Socket, frames: Sequence[Frame]) -> None:
    """Send without copying and without waiting.

    Raises zmq.ZMQError if the peer is gone or its queue is full.
    """
    socket.send_multipart(frames, flags=zmq.NOBLOCK, copy=False)


def receive(socket: Socket) -> list[Frame]:
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

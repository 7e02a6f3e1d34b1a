"""ZeroMQ sockets as both sides of the link use them: encrypted, bounded, and woken from another thread."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import zmq
from zmq.auth.thread import ThreadAuthenticator

from dskd_ds.link.address import Place, wrong_address
from dskd_ds.link.codec import Frame
from dskd_ds.link.keys import LinkKeys
from dskd_ds.spec.processes import MAX_CREDITS, LinkSpec

_names = itertools.count()
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
    context: Context, spec: LinkSpec, keys: LinkKeys | None, place: Place
) -> tuple[Socket, str]:
    """A bound ROUTER on a free port, and the address teachers reach it at. Raises InputError if this machine has no such address."""
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    _bound(router, spec)
    if keys:
        router.curve_server = True
        router.curve_publickey, router.curve_secretkey = keys.student.public, keys.student.secret
    try:
        port = router.bind_to_random_port(f"tcp://{place.interface}")
    except zmq.ZMQError as error:
        raise wrong_address(
            spec, f"nothing can listen at {place.interface} here ({error})"
        ) from None
    return router, f"tcp://{place.host}:{port}"


def teacher_socket(context: Context, spec: LinkSpec, keys: LinkKeys | None, address: str) -> Socket:
    """A DEALER connected to a student's address (ZeroMQ connects in the background and retries)."""
    dealer = context.socket(zmq.DEALER)
    _bound(dealer, spec)
    if keys:
        dealer.curve_serverkey = keys.student.public
        dealer.curve_publickey, dealer.curve_secretkey = keys.teacher.public, keys.teacher.secret
    dealer.connect(address)
    return dealer


def _bound(socket: Socket, spec: LinkSpec) -> None:
    socket.setsockopt(zmq.LINGER, 2000)
    socket.setsockopt(zmq.MAXMSGSIZE, spec.max_message_bytes)
    # Credits bound what is in flight; the high-water mark is only the net below them.
    socket.setsockopt(zmq.SNDHWM, 2 * MAX_CREDITS)
    socket.setsockopt(zmq.RCVHWM, 2 * MAX_CREDITS)


def wake_pair(context: Context) -> tuple[Socket, Socket]:
    """Two joined sockets: a byte sent on the first wakes the thread that polls the second."""
    name = f"inproc://wake-{next(_names)}"
    reader = context.socket(zmq.PAIR)
    reader.bind(name)
    writer = context.socket(zmq.PAIR)
    writer.connect(name)
    return writer, reader


def drain(reader: Socket) -> None:
    """Swallow all pending wake-ups."""
    try:
        while True:
            reader.recv(zmq.NOBLOCK)
    except zmq.Again:
        return


def send(socket: Socket, frames: Sequence[Frame]) -> None:
    """Send without copying and without waiting. Raises zmq.ZMQError where the peer is gone or its queue is full."""
    socket.send_multipart(frames, flags=zmq.NOBLOCK, copy=False)


def receive(socket: Socket) -> list[Frame]:
    """One message that is known to be there, as views of ZeroMQ's own buffers."""
    return [frame.buffer for frame in socket.recv_multipart(flags=zmq.NOBLOCK, copy=False)]

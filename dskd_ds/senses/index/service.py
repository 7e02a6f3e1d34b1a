"""Serves one index per node: the first rank of a role loads the graph and answers the other ranks.

The role is the student, the teacher if teachers choose the senses, or both if each chooses some. A
rank sends reduced queries and receives candidate rows; it re-ranks them itself on its mapped
dictionary.

Why a socket and not shared memory: 200 queries of 256 numbers, with 150 candidates each, take
0.27 ms through the socket and 0.05 ms through shared memory with two semaphores, while the search
takes tens of milliseconds. The socket also identifies the asking rank and reports a lost peer.
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from numpy.typing import NDArray

from dskd_ds.errors import DskdError, InputError
from dskd_ds.files.private import private_socket_path
from dskd_ds.senses.index.graph import knn

HEADER = struct.Struct("<III")
"""Rows and columns of the array in the next frame, and the number of candidates per query."""
ANSWER_SECONDS = 60.0
"""How long a rank waits for its node's index; a search takes milliseconds.

If the process of the service ends, the rank notices at once.
"""
QUERIES_PER_REQUEST = 1024
"""A request of a whole batch could take longer than `ANSWER_SECONDS`, with millions of senses."""
WORKERS_ADDRESS = "inproc://workers"


class IndexServiceError(DskdError):
    """The node's index did not answer, or answered with an error."""


def service_address(
    run_dir: str, master_port: int, role: str = "student", dictionary: str = ""
) -> str:
    """Return the `ipc://` address of this launch's index on this node, in a private folder.

    role: of the ranks that ask it; teachers do if they choose senses. dictionary: its folder, which
    tells the indexes of several dictionaries apart.

    The folder is below TMPDIR, or below /tmp if TMPDIR is too long for the path of a unix socket.
    Raises IndexServiceError if the folder belongs to another user, is open to others, or cannot be
    created.
    """
    # SLURM can run several nodes on one host, whose leaders must not bind the same address.
    node = os.environ.get("SLURMD_NODENAME", "")
    name = f"{Path(run_dir).resolve()} {master_port} {role} {dictionary} {node}"
    key = hashlib.sha256(name.encode()).hexdigest()[:16]
    try:
        path = private_socket_path(f"{key}.index")
    except InputError as error:
        raise IndexServiceError(f"{error}") from None
    except OSError as error:
        raise IndexServiceError(
            f"{error.filename}: the folder for the socket of the node's sense index cannot be "
            f"created ({error.strerror}).\n"
            "  set TMPDIR to a folder that you may write to, with a path of at most 60 characters."
        ) from None
    return f"ipc://{path}"


class IndexService:
    """Answers searches of this node's ranks, each in its own thread; hnswlib releases the GIL."""

    def __init__(
        self, address: str, graph: Any, num_workers: int = 1, threads_per_search: int = 1
    ) -> None:
        """Start answering at `address`.

        num_workers: searches that run at the same time. With one per asking rank, no rank waits for
        another.
        """
        self._graph, self._threads_per_search = graph, threads_per_search
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        front, back = self._context.socket(zmq.ROUTER), self._context.socket(zmq.DEALER)
        for socket in (front, back):
            socket.setsockopt(zmq.LINGER, 0)  # `close` does not wait for undelivered answers
        back.bind(WORKERS_ADDRESS)
        front.bind(address)
        proxy = threading.Thread(
            target=self._run_proxy, args=(front, back), name="sense index", daemon=True
        )
        workers = [
            threading.Thread(target=self._run_worker, name=f"sense search {index}", daemon=True)
            for index in range(num_workers)
        ]
        self._threads = [proxy, *workers]
        for thread in self._threads:
            thread.start()

    def _run_proxy(self, front: zmq.Socket[bytes], back: zmq.Socket[bytes]) -> None:
        """Forward requests to the workers in turn, and their answers back, until `close`."""
        try:
            zmq.proxy(front, back)
        except zmq.ContextTerminated:
            front.close()
            back.close()

    def _run_worker(self) -> None:
        """Answer one request after the other until `close`."""
        socket = self._context.socket(zmq.REP)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(WORKERS_ADDRESS)
        try:
            while True:
                socket.send_multipart(self._answer(socket.recv_multipart()), copy=False)
        except zmq.ContextTerminated:
            socket.close()

    def _answer(self, frames: list[bytes]) -> list[Any]:
        """Return the frames that answer one request: rows, or the reason of a refusal."""
        try:
            header, body = frames
            num_rows, num_columns, num_candidates = HEADER.unpack(header)
            reduced = np.frombuffer(body, np.float32).reshape(num_rows, num_columns)
            rows = knn(
                self._graph,
                reduced,
                num_candidates=num_candidates,
                num_threads=self._threads_per_search,
            )
        except (ValueError, struct.error, RuntimeError) as error:
            return [b"error", str(error).encode()]
        return [b"rows", HEADER.pack(*rows.shape, num_candidates), rows.data]

    def close(self) -> None:
        """Stop answering: ending the context makes every thread close its sockets."""
        self._context.term()
        for thread in self._threads:
            thread.join()


class IndexClient:
    """Searches in the node's index. Each thread needs its own client."""

    def __init__(self, address: str, answer_seconds: float = ANSWER_SECONDS) -> None:
        """Connect. answer_seconds: how long `search` waits for an answer."""
        self._address, self._answer_seconds = address, answer_seconds
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.REQ)
        self._socket.setsockopt(zmq.LINGER, 0)
        # Together these two drop an answer that arrives after its deadline.
        self._socket.setsockopt(zmq.REQ_RELAXED, 1)
        self._socket.setsockopt(zmq.REQ_CORRELATE, 1)
        self._disconnects = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._socket.connect(address)
        self._poller = zmq.Poller()
        for socket in (self._socket, self._disconnects):
            self._poller.register(socket, zmq.POLLIN)

    def search(self, reduced: NDArray[np.float32], num_candidates: int) -> NDArray[np.int64]:
        """Search for reduced queries [P, d]; returns candidate rows [P, C].

        Raises IndexServiceError if the service has ended, does not answer in time or refuses.
        """
        reduced = np.ascontiguousarray(reduced, np.float32)
        starts = range(0, max(1, len(reduced)), QUERIES_PER_REQUEST)
        found = [self._ask(reduced[i : i + QUERIES_PER_REQUEST], num_candidates) for i in starts]
        return np.concatenate(found)  # writable, which torch needs

    def _ask(self, reduced: NDArray[np.float32], num_candidates: int) -> NDArray[np.int64]:
        """Send one request and return its answer, which is read-only."""
        if not self._disconnects.poll(0):
            header = HEADER.pack(*reduced.shape, num_candidates)
            self._socket.send_multipart([header, reduced.data], copy=False)
        events = dict(self._poller.poll(int(self._answer_seconds * 1000)))
        if self._socket not in events:
            raise self._no_answer(has_ended=self._disconnects in events)
        kind, *frames = self._socket.recv_multipart()
        if kind != b"rows" or len(frames) != 2:
            reason = frames[0].decode(errors="replace")
            raise IndexServiceError(f"the node's sense index at {self._address} refused: {reason}")
        num_rows, num_columns, _ = HEADER.unpack(frames[0])
        return np.frombuffer(frames[1], np.int64).reshape(num_rows, num_columns)

    def _no_answer(self, has_ended: bool) -> IndexServiceError:
        """Return the error for a request without an answer."""
        if has_ended:
            what = "is gone: its process ended"
        else:
            what = f"did not answer within {self._answer_seconds:g} s"
        return IndexServiceError(
            f"the node's sense index at {self._address} {what}.\n"
            "  look at the log of the first student on this node "
            "(the first teacher, if teachers choose the senses)."
        )

    def close(self) -> None:
        """Close the sockets."""
        self._socket.disable_monitor()
        self._disconnects.close()
        self._context.destroy(linger=0)

"""One index a node: the first rank of its role (student, or teacher where teachers choose) loads the graph and answers all the others.

Reduced queries go out, candidate rows come back; re-ranking happens in the asking process on its mapped dictionary. Why a socket and
not shared memory: 200 queries of 256 numbers and 150 candidates for each take 0.27 ms through the socket and 0.05 ms through shared
memory with two semaphores, where the search takes tens of milliseconds; the socket also tells who asked, and when its peer is gone.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from numpy.typing import NDArray

from dskd_ds.errors import DskdError
from dskd_ds.senses.index.graph import knn

QUESTION = struct.Struct("<III")
"""Rows, columns, number of candidates."""
ANSWER_SECONDS = 60.0
"""How long a rank waits for its node's index; a search takes milliseconds. A service whose process ended is noticed at once."""
WORKERS_ADDRESS = "inproc://workers"


class IndexServiceError(DskdError):
    """The node's index did not answer, or answered with something else."""


def service_address(run_dir: str, master_port: int) -> str:
    """A local socket that only this launch on this node knows: `ipc://` in a folder of the user's own."""
    key = hashlib.sha256(f"{Path(run_dir).resolve()} {master_port}".encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"dskd-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o077:
        raise IndexServiceError(
            f"{folder}: it must belong to you and be closed to others.\n  chmod 700 it, or set TMPDIR."
        )
    return f"ipc://{folder}/{key}.index"


class IndexService:
    """Answers candidate searches of this node's students, each in a thread of its own (hnswlib lets go of the GIL)."""

    def __init__(
        self, address: str, graph: Any, num_workers: int = 1, threads_per_search: int = 1
    ) -> None:
        """num_workers: searches at the same time; one for each asking rank, so that none waits for another."""
        self._graph, self._threads_per_search = graph, threads_per_search
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        front, back = self._context.socket(zmq.ROUTER), self._context.socket(zmq.DEALER)
        for socket in (front, back):
            socket.setsockopt(zmq.LINGER, 0)
        back.bind(WORKERS_ADDRESS)
        front.bind(address)
        self._threads = [
            threading.Thread(target=self._deal, args=(front, back), name="sense index", daemon=True)
        ]
        self._threads += [
            threading.Thread(target=self._work, name=f"sense search {n}", daemon=True)
            for n in range(num_workers)
        ]
        for thread in self._threads:
            thread.start()

    def _deal(self, front: zmq.Socket[bytes], back: zmq.Socket[bytes]) -> None:
        """Questions to the workers in turn, answers back to who asked; until the context ends."""
        try:
            zmq.proxy(front, back)
        except zmq.ContextTerminated:
            front.close()
            back.close()

    def _work(self) -> None:
        socket = self._context.socket(zmq.REP)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(WORKERS_ADDRESS)
        try:
            while True:
                socket.send_multipart(self._answer(socket.recv_multipart()), copy=False)
        except zmq.ContextTerminated:
            socket.close()

    def _answer(self, frames: list[bytes]) -> list[Any]:
        try:
            header, body = frames
            num_rows, num_columns, num_candidates = QUESTION.unpack(header)
            reduced = np.frombuffer(body, np.float32).reshape(num_rows, num_columns)
            rows = knn(self._graph, reduced, num_candidates, self._threads_per_search)
        except (ValueError, struct.error, RuntimeError) as error:
            return [b"error", str(error).encode()]
        return [b"rows", QUESTION.pack(*rows.shape, num_candidates), rows.data]

    def close(self) -> None:
        """Stop answering: ends the context, at which every thread closes its sockets."""
        self._context.term()
        for thread in self._threads:
            thread.join()


class IndexClient:
    """Asks the node's index. One client a thread."""

    def __init__(self, address: str, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._address, self._answer_seconds = address, answer_seconds
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.REQ)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.REQ_RELAXED, 1),
            (zmq.REQ_CORRELATE, 1),
        ):  # a late answer is dropped
            self._socket.setsockopt(option, value)
        self._gone = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._socket.connect(address)
        self._poller = zmq.Poller()
        for socket in (self._socket, self._gone):
            self._poller.register(socket, zmq.POLLIN)

    def search(self, reduced: NDArray[np.float32], num_candidates: int) -> NDArray[np.int64]:
        """[P, d] -> [P, C] candidate rows. Raises IndexServiceError if the service is gone, silent or refuses."""
        reduced = np.ascontiguousarray(reduced, np.float32)
        if not self._gone.poll(0):
            self._socket.send_multipart(
                [QUESTION.pack(*reduced.shape, num_candidates), reduced.data], copy=False
            )
        events = dict(self._poller.poll(int(self._answer_seconds * 1000)))
        if self._socket not in events:
            what = (
                "is gone: its process ended"
                if self._gone in events
                else f"did not answer within {self._answer_seconds:g} s"
            )
            raise IndexServiceError(
                f"the node's sense index at {self._address} {what}.\n"
                "  look at the log of the first student on this node (the first teacher, where teachers choose)."
            )
        kind, *frames = self._socket.recv_multipart()
        if kind != b"rows" or len(frames) != 2:
            raise IndexServiceError(
                f"the node's sense index at {self._address} refused: {frames[0].decode(errors='replace')}"
            )
        num_rows, num_columns, _ = QUESTION.unpack(frames[0])
        return (
            np.frombuffer(frames[1], np.int64).reshape(num_rows, num_columns).copy()
        )  # torch wants memory it may write

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.disable_monitor()
        self._gone.close()
        self._context.destroy(linger=0)

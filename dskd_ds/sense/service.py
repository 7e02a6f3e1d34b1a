"""One index a node: the node's first student loads the graph and answers, all of the node's students ask over a local socket.

Reduced queries go out, candidate rows come back; re-ranking happens in the asking process on its mapped dictionary.
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
from dskd_ds.sense.index import knn

QUESTION = struct.Struct("<III")
"""Rows, columns, number of candidates."""
ANSWER_SECONDS = 60.0
"""How long a rank waits for its node's index; a search takes milliseconds."""


class IndexServiceError(DskdError):
    """The node's index did not answer, or answered with something else."""


def service_address(run_dir: str, master_port: int) -> str:
    """A local socket that only this launch on this node knows: `ipc://` in a folder of the user's own."""
    key = hashlib.sha256(f"{Path(run_dir).resolve()} {master_port}".encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"dskd-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o077:
        raise IndexServiceError(f"{folder}: it must belong to you and be closed to others.\n  chmod 700 it, or set TMPDIR.")
    return f"ipc://{folder}/{key}.index"


class IndexService:
    """Answers candidate searches of this node's students, in a thread (hnswlib lets go of the GIL)."""

    def __init__(self, address: str, graph: Any) -> None:
        self._graph = graph
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(address)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="sense index", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closing:
            if self._socket.poll(200):
                self._socket.send_multipart(self._answer(self._socket.recv_multipart()))
        self._socket.close()

    def _answer(self, frames: list[bytes]) -> list[bytes]:
        try:
            header, body = frames
            num_rows, num_columns, num_candidates = QUESTION.unpack(header)
            reduced = np.frombuffer(body, np.float32).reshape(num_rows, num_columns)
            rows = knn(self._graph, reduced, num_candidates)
        except (ValueError, struct.error, RuntimeError) as error:
            return [b"error", str(error).encode()]
        return [b"rows", QUESTION.pack(*rows.shape, num_candidates), rows.tobytes()]

    def close(self) -> None:
        """Stop answering."""
        self._closing = True
        self._thread.join(timeout=5)
        self._context.destroy(linger=0)


class IndexClient:
    """Asks the node's index. One client a thread."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.REQ)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(address)

    def search(self, reduced: NDArray[np.float32], num_candidates: int) -> NDArray[np.int64]:
        """[P, d] -> [P, C] candidate rows. Raises IndexServiceError if the service is gone or refuses."""
        reduced = np.ascontiguousarray(reduced, np.float32)
        self._socket.send_multipart([QUESTION.pack(*reduced.shape, num_candidates), reduced.tobytes()])
        if not self._socket.poll(int(ANSWER_SECONDS * 1000)):
            raise IndexServiceError(f"the node's sense index at {self._address} did not answer within {ANSWER_SECONDS:g} s.\n"
                              "  look at the log of the node's first student rank.")
        kind, *frames = self._socket.recv_multipart()
        if kind != b"rows" or len(frames) != 2:
            raise IndexServiceError(f"the node's sense index at {self._address} refused: {frames[0].decode(errors='replace')}")
        num_rows, num_columns, _ = QUESTION.unpack(frames[0])
        return np.frombuffer(frames[1], np.int64).reshape(num_rows, num_columns).copy()  # torch wants memory it may write

    def close(self) -> None:
        """Let go of the socket."""
        self._context.destroy(linger=0)

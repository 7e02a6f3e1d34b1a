"""Stands in for `python` in a command line: `python -I -S warm_rank.py [-m] NAME ARGUMENT...`.

It asks the server of this session (tests/processes/warm.py) for a process that has imported torch,
transformers and deepspeed already, and lives as long as that process. Output, exit code, signals
and environment are those of the process; if this one is killed, that one is too.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

SOCKET_VARIABLE = "DSKD_TEST_WARM_SOCKET"
"""Environment variable with the address of the server."""
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    """Ask for the process, pass signals on to it, and end as it ends."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(os.environ[SOCKET_VARIABLE])
    request = {"argv": sys.argv[1:], "cwd": str(Path.cwd()), "env": dict(os.environ)}
    socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
    for number in PASSED_ON:
        signal.signal(number, lambda received, _: pass_on(connection, received))
    end = read_end(connection)
    if end["signal"]:
        signal.signal(end["signal"], signal.SIG_DFL)
        os.kill(os.getpid(), end["signal"])
    sys.exit(end["exit_code"])


def pass_on(connection: socket.socket, number: int) -> None:
    """Send a signal's number to the rank. A rank that has ended needs none."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.send(bytes([number]))


def read_end(connection: socket.socket) -> dict[str, int]:
    """Wait until the rank has ended, and return its exit code and signal.

    If a signal was on its way when the server closed the connection, the first read fails with
    ECONNRESET, although the server's message is there.
    """
    try:
        message = connection.recv(4096)
    except ConnectionResetError:
        message = connection.recv(4096)
    end: dict[str, int] = json.loads(message)
    return end


if __name__ == "__main__":
    main()

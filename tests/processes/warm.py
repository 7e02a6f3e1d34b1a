"""A server that starts ranks which have imported their libraries already.

Of the processor time of a launch of the tiny world, 94 % went into imports: the same three seconds
in every rank. The server imports torch, transformers and deepspeed once per session of tests and
forks itself for each rank that a launcher starts through tests/processes/warm_rank.py. The launcher
stays a real one, and the ranks are real processes.

What differs from a rank that was started by Python: ranks of one session share the seed of Python's
hashes, and SIGSTOP to a rank's process id stops its stand-in only. So each family of tests has
launches without this too.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STAND_IN = Path(__file__).with_name("warm_rank.py")
PRELOADED = (
    "deepspeed",
    "deepspeed.ops.adam",
    "transformers",
    "transformers.models.llama.modeling_llama",
    "datasets",
    "torch.utils.tensorboard",
    "dskd_ds.student.session",
    "dskd_ds.teacher.service",
    "dskd_ds.plan.preflight",
    "dskd_ds.senses.build.build",
)
"""Modules that are imported once. None of them is started as `python -m`."""
TORCH_VARIABLES = {
    "RANK": "OMPI_COMM_WORLD_RANK",
    "WORLD_SIZE": "OMPI_COMM_WORLD_SIZE",
    "LOCAL_RANK": "OMPI_COMM_WORLD_LOCAL_RANK",
    "LOCAL_WORLD_SIZE": "OMPI_COMM_WORLD_LOCAL_SIZE",
}
"""Variables of torchrun, and those of mpirun with the same meaning."""
READ_AT_IMPORT = ("HF_", "TRANSFORMERS_", "DS_", "OMP_", "MALLOC_", "PYTHON", "TOKENIZERS_")
"""Beginnings of the names of variables that libraries, or the process, read when they start."""
ORPHAN_SECONDS = 10.0
"""A process that a rank has started may live so much longer than the rank."""
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


class WarmServer:
    """The server of this session, as the tests see it."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        """Start it. Ranks may connect at once; they start when it has imported everything."""
        self.address = str(folder / "warm")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(self.address)
        self._listener.listen(64)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.processes.warm", str(self._listener.fileno())],
            env=dict(env),
            stdin=subprocess.PIPE,
            pass_fds=[self._listener.fileno()],
        )

    def close(self) -> None:
        """End the server."""
        self._process.communicate()
        self._listener.close()


def warm(command: list[str]) -> list[str]:
    """Return a command line in which ranks of the server take the place of `python`."""
    stand_in = [sys.executable, "-I", "-S", str(STAND_IN)]
    found = [stand_in if part == sys.executable else [part] for part in command]
    assert stand_in in found, "the command starts no Python"
    return [part for parts in found for part in parts]


def is_warm(command: tuple[str, ...]) -> bool:
    """Whether a command line needs the server."""
    return str(STAND_IN) in command


def main() -> None:
    """Import the libraries, then fork a keeper for each rank until stdin is closed."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    at_start = _read_at_import(os.environ)
    from dskd_ds.runtime.console import quiet_libraries

    quiet_libraries()
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # otherwise the first collection of each rank would copy all pages
    num_keepers = 0
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        while num_keepers and os.waitpid(-1, os.WNOHANG) != (0, 0):
            num_keepers -= 1
        if sys.stdin in ready:
            return
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            request = keep(connection, at_start)
            if request is not None:
                run(request)
            return
        num_keepers += 1
        connection.close()


def keep(connection: socket.socket, at_start: Mapping[str, str]) -> dict[str, Any] | None:
    """Fork a rank and watch it until it has ended. Returns its request in the rank, else None.

    at_start: the variables that the server's libraries have read.
    """
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    message, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    request: dict[str, Any] = json.loads(message)
    found = _read_at_import(request["env"])
    if found != at_start:
        different = sorted(dict(found.items() ^ at_start.items()))
        os.write(descriptors[2], f"a warm rank cannot have another {different}\n".encode())
        _tell(connection, exit_code=69)
        return None
    process_id = os.fork()
    if process_id == 0:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        connection.close()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        return request
    for descriptor in descriptors[:2]:
        os.close(descriptor)
    status = _wait(process_id, connection)
    if _has_orphans():
        os.write(descriptors[2], b"the rank has left a process behind\n")
        _tell(connection, exit_code=70)
    elif os.WIFSIGNALED(status):
        _tell(connection, signal_number=os.WTERMSIG(status))
    else:
        _tell(connection, exit_code=os.WEXITSTATUS(status))
    return None


def _wait(process_id: int, connection: socket.socket) -> int:
    """Pass signals on to a rank until it ends; returns its status. A lost stand-in kills it."""
    descriptor = os.pidfd_open(process_id)
    sources: list[Any] = [descriptor, connection]
    while True:
        ready, _, _ = select.select(sources, [], [])
        if descriptor in ready:
            return os.waitpid(process_id, 0)[1]
        number = connection.recv(1)
        if number:
            os.kill(process_id, number[0])
        else:
            os.kill(process_id, signal.SIGKILL)
            sources.remove(connection)


def _has_orphans() -> bool:
    """Whether processes that the rank has started go on; the keeper adopts them and kills them."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.05)
        except ChildProcessError:
            return False
    for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)
    return True


def _tell(connection: socket.socket, *, exit_code: int = 0, signal_number: int = 0) -> None:
    """Tell the stand-in how its rank has ended. It may be gone."""
    try:
        connection.send(json.dumps({"exit_code": exit_code, "signal": signal_number}).encode())
    except OSError:
        return


def run(request: dict[str, Any]) -> None:
    """Become the rank: run the script or module of a request as `python` would."""
    import numpy as np

    os.environ.clear()
    os.environ.update(request["env"])
    # As under torchrun: workers open their world without MPI.
    for name, of_mpirun in TORCH_VARIABLES.items():
        if of_mpirun in os.environ:
            os.environ.setdefault(name, os.environ[of_mpirun])
            os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.chdir(request["cwd"])
    np.random.seed()
    sys.stdout.reconfigure(line_buffering=True)
    is_module = request["argv"][0] == "-m"
    sys.argv = request["argv"][1:] if is_module else request["argv"]
    name = sys.argv[0]
    if is_module:
        sys.path[0] = request["cwd"]
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(name).resolve().parent)
        runpy.run_path(name, run_name="__main__")


def _read_at_import(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(READ_AT_IMPORT)}


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    main()

"""Starts real launches, and checks that none of their processes outlives them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dskd_ds.runtime.console import child_environment
from dskd_ds.runtime.launch import free_port, tool
from tests.conftest import TinyWorld
from tests.processes.warm import WarmServer, is_warm, warm
from tests.processes.warm_rank import SOCKET_VARIABLE

Launch = Callable[..., "Ended"]
Start = Callable[..., subprocess.Popen[str]]
Environment = dict[str, str]
AT_START = dict(os.environ)
"""The environment before the first test. Libraries that tests import, and commands that they call
in this process, add variables; a launch must not depend on which tests came before it."""
PATIENCE_SECONDS = 400
"""Timeout for an event that must happen, also on a busy machine."""


@dataclass(frozen=True)
class Ended:
    """Exit code and output of a launch that has ended."""

    code: int
    output: str


def children_with(marker: str) -> list[int]:
    """Return the ids of the processes whose command line contains `marker`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command_line = path.read_bytes()
        except OSError:
            continue  # the process has just ended
        process_id = int(path.parent.name)
        if marker.encode() in command_line and process_id != os.getpid():
            found.append(process_id)
    return found


def environment_of(tiny: TinyWorld) -> dict[str, str]:
    """Return the environment of a launch in the tiny world."""
    return child_environment(AT_START) | {
        "OMP_NUM_THREADS": "1",
        "DSKD_HOME": str(tiny.folder / "home"),
        "HF_DATASETS_CACHE": str(tiny.folder / "datasets"),
    }


@pytest.fixture(scope="session")
def warm_server(tiny: TinyWorld) -> Iterator[WarmServer]:
    """The server of warm ranks, started by the first launch that needs it."""
    server = WarmServer(tiny.folder, environment_of(tiny))
    yield server
    server.close()


@pytest.fixture
def variables() -> Environment:
    """Variables that a test sets for its launches. They do not change this process."""
    return {}


@pytest.fixture
def environment_for(
    tiny: TinyWorld, variables: Environment, request: pytest.FixtureRequest
) -> Callable[..., Environment]:
    """`environment_for(argv)` is the environment in which a command line runs."""

    def environment(argv: tuple[str, ...]) -> Environment:
        env = environment_of(tiny) | variables
        if is_warm(argv):
            server: WarmServer = request.getfixturevalue("warm_server")
            env[SOCKET_VARIABLE] = server.address
        return env

    return environment


@pytest.fixture
def launch(tiny: TinyWorld, environment_for: Callable[..., Environment]) -> Launch:
    """`launch(argument, ...)` runs a command to its end; none of its processes may be left.

    marker: part of the command line of all its processes, by default the tiny world's folder.
    """

    def run(*argv: str, marker: str | None = None, timeout: float = 480) -> Ended:
        done = subprocess.run(
            argv,
            env=environment_for(argv),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        print(done.stdout[-6000:])
        assert not children_with(marker or str(tiny.folder)), "a process was left behind"
        return Ended(done.returncode, done.stdout)

    return run


@pytest.fixture
def start(environment_for: Callable[..., Environment]) -> Iterator[Start]:
    """`start(argument, ...)` starts a process, which is terminated when the test ends."""
    started: list[subprocess.Popen[str]] = []

    def run(*argv: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            argv,
            env=environment_for(argv),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.terminate()
        print(process.communicate(timeout=30)[0][-3000:])


def wait_until(
    condition: Callable[[], object],
    process: subprocess.Popen[str],
    patience: float = PATIENCE_SECONDS,
) -> None:
    """Wait until a condition holds; fails if the process ends before that."""
    deadline = time.monotonic() + patience
    while not condition():
        assert process.poll() is None, "the training ended too early"
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.02)


def deepspeed(num_ranks: int, script: str, *argv: str) -> list[str]:
    """Return a command line of the deepspeed launcher."""
    return [
        tool("deepspeed"),
        "--num_gpus",
        str(num_ranks),
        "--master_port",
        str(free_port()),
        script,
        *argv,
    ]


def torchrun(num_ranks: int, script: str, *argv: str) -> list[str]:
    """Return a command line of torchrun."""
    return [
        tool("torchrun"),
        "--nproc_per_node",
        str(num_ranks),
        "--master_port",
        str(free_port()),
        script,
        *argv,
    ]


def mpirun(num_ranks: int, script: str, *argv: str) -> list[str]:
    """Return a command line of mpirun, which passes on a rank's exit code as deepspeed does."""
    return [
        tool("mpirun"),
        "-n",
        str(num_ranks),
        "--bind-to",
        "none",
        "--oversubscribe",
        "-x",
        f"MASTER_PORT={free_port()}",
        sys.executable,
        script,
        *argv,
    ]


def ranks(num_ranks: int, *argv: str) -> list[str]:
    """Return a command line of mpirun for warm ranks, for tests that do not depend on the launcher.

    argv: a script or `-m` and a module, and its arguments.
    """
    return warm(mpirun(num_ranks, *argv))


def dskd(*argv: str) -> list[str]:
    """Return a command line of the dskd command."""
    return [tool("dskd"), *argv]


def warm_dskd(*argv: str) -> list[str]:
    """Return a command line of the dskd command in a warm process."""
    return warm([sys.executable, "-m", "dskd_ds.commands.cli", *argv])


@pytest.fixture
def dictionary(tiny: TinyWorld, launch: Launch) -> Path:
    """The tiny world's dictionary, built by two ranks under mpirun, once per session."""
    folder = tiny.folder / "senses"
    if not folder.is_dir():
        assert launch(*dskd("senses", "build", str(tiny.spec_file), "--ranks", "2")).code == 0
    return folder

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

Launch = Callable[..., "Ended"]
Start = Callable[..., subprocess.Popen[str]]
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
    return child_environment(os.environ) | {
        "OMP_NUM_THREADS": "1",
        "DSKD_HOME": str(tiny.folder / "home"),
    }


@pytest.fixture
def launch(tiny: TinyWorld) -> Launch:
    """`launch(argument, ...)` runs a command to its end; none of its processes may be left.

    marker: part of the command line of all its processes, by default the tiny world's folder.
    """

    def run(*argv: str, marker: str | None = None, timeout: float = 480) -> Ended:
        done = subprocess.run(
            argv,
            env=environment_of(tiny),
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
def start(tiny: TinyWorld) -> Iterator[Start]:
    """`start(argument, ...)` starts a process, which is terminated when the test ends."""
    started: list[subprocess.Popen[str]] = []

    def run(*argv: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            argv,
            env=environment_of(tiny),
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
    """Return a command line of torchrun, for tests that do not depend on the launcher.

    It is faster: the deepspeed launcher imports deepspeed twice before the first rank starts.
    """
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


def dskd(*argv: str) -> list[str]:
    """Return a command line of the dskd command."""
    return [tool("dskd"), *argv]


@pytest.fixture
def dictionary(tiny: TinyWorld, launch: Launch) -> Path:
    """The tiny world's dictionary, built by two ranks under mpirun, once per session."""
    folder = tiny.folder / "senses"
    if not folder.is_dir():
        assert launch(*dskd("senses", "build", str(tiny.spec_file), "--ranks", "2")).code == 0
    return folder

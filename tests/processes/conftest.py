"""Starting real launches, and making sure that none of their processes outlives them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dskd_ds.runtime.console import child_environment
from dskd_ds.runtime.launch import free_port, tool
from tests.conftest import TinyWorld

Launch = Callable[..., "Ended"]
Start = Callable[..., subprocess.Popen[str]]
PATIENCE_SECONDS = 200
"""For what must happen, on a busy machine too."""


@dataclass(frozen=True)
class Ended:
    """A launch that came to its end."""

    code: int
    output: str


def children_with(marker: str) -> list[int]:
    """Processes whose command line mentions `marker`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.fixture
def launch(tiny: TinyWorld) -> Launch:
    """launch(command words ...) -> Ended; asserts that nothing is left running."""

    def run(*words: str, marker: str | None = None) -> Ended:
        env = child_environment(os.environ) | {
            "OMP_NUM_THREADS": "1",
            "DSKD_HOME": str(tiny.folder / "home"),
        }
        done = subprocess.run(
            words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240
        )
        print(done.stdout[-6000:])
        assert not children_with(marker or str(tiny.folder)), "a process was left behind"
        return Ended(done.returncode, done.stdout)

    return run


@pytest.fixture
def start(tiny: TinyWorld) -> Iterator[Start]:
    """start(command words ...) -> a running process; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*words: str) -> subprocess.Popen[str]:
        env = child_environment(os.environ) | {
            "OMP_NUM_THREADS": "1",
            "DSKD_HOME": str(tiny.folder / "home"),
        }
        started.append(
            subprocess.Popen(
                words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.terminate()
        print(process.communicate(timeout=30)[0][-3000:])


def deepspeed(num_ranks: int, script: str, *words: str) -> list[str]:
    """The real launcher's command line."""
    return [
        tool("deepspeed"),
        "--num_gpus",
        str(num_ranks),
        "--master_port",
        str(free_port()),
        script,
        *words,
    ]


def torchrun(num_ranks: int, script: str, *words: str) -> list[str]:
    """The same under torchrun, for tests that are not about a launcher: deepspeed's imports itself twice before the first rank starts."""
    return [
        tool("torchrun"),
        "--nproc_per_node",
        str(num_ranks),
        "--master_port",
        str(free_port()),
        script,
        *words,
    ]


def mpirun(num_ranks: int, script: str, *words: str) -> list[str]:
    """The same under mpirun, which hands on a rank's exit code as deepspeed does."""
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
        *words,
    ]


def dskd(*words: str) -> list[str]:
    """The command as a user calls it."""
    return [tool("dskd"), *words]


@pytest.fixture
def dictionary(tiny: TinyWorld, launch: Launch) -> Path:
    """The tiny world's dictionary, built under mpirun by two ranks (once a session)."""
    folder = tiny.folder / "senses"
    if not folder.is_dir():
        assert launch(*dskd("senses", "build", str(tiny.spec_file), "--ranks", "2")).code == 0
    return folder

"""Starts ranks as a user would type it, and shows the line: `deepspeed ... train.py` and `mpirun ... build_senses`."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dskd_ds.errors import InputError
from dskd_ds.runtime.arguments import override_words
from dskd_ds.runtime.console import child_environment
from dskd_ds.spec import RunSpec


def train_command(spec_path: str, overrides: Sequence[str], spec: RunSpec) -> list[str]:
    """The launch of a run on this machine."""
    ranks = spec.topology.num_students + spec.topology.num_teachers
    script = Path(__file__).parents[1] / "train.py"
    return [
        tool("deepspeed"),
        "--num_gpus",
        str(ranks),
        "--master_port",
        str(free_port()),
        _short(script),
        "--spec",
        spec_path,
        *override_words(overrides),
    ]


def senses_command(
    spec_path: str, overrides: Sequence[str], num_ranks: int, flags: Sequence[str] = ()
) -> list[str]:
    """The launch that builds a dictionary on this machine, or refreshes it. flags: of commands/build_senses.py."""
    return [
        tool("mpirun"),
        "-n",
        str(num_ranks),
        "--bind-to",
        "none",
        "--oversubscribe",
        sys.executable,
        "-m",
        "dskd_ds.commands.build_senses",
        "--spec",
        spec_path,
        *override_words(overrides),
        *flags,
    ]


def continue_command(
    spec_path: str, overrides: Sequence[str], num_ranks: int, words: Sequence[str]
) -> list[str]:
    """The launch that continues conversations on this machine. words: its own options."""
    return [
        tool("mpirun"),
        "-n",
        str(num_ranks),
        "--bind-to",
        "none",
        "--oversubscribe",
        sys.executable,
        "-m",
        "dskd_ds.commands.continue_conversations",
        "--spec",
        spec_path,
        *override_words(overrides),
        *words,
    ]


def run(command: list[str]) -> int:
    """Show the command, run it to its end, return its exit code. Interrupting this process interrupts the command."""
    print(f"$ {shlex.join([_short(Path(command[0])), *command[1:]])}", flush=True)
    process = subprocess.Popen(command, env=child_environment(os.environ))
    try:
        return process.wait()
    except KeyboardInterrupt:
        return (
            process.wait()
        )  # the terminal sent the interrupt to the command too; let it end in its own way


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tool(name: str) -> str:
    """A command that pip installed beside this Python. Raises InputError if it is not there."""
    path = Path(sys.executable).with_name(name)
    if not path.is_file():
        raise InputError(
            f"{path}: {name} is not installed beside this Python.\n  pip install dskd-ds into this environment again."
        )
    return str(path)


def _short(path: Path) -> str:
    """Relative to the folder we are in, where it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

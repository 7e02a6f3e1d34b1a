"""Starts ranks on this machine with the launchers a user would call, and shows the command line."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from dskd_ds.errors import InputError
from dskd_ds.runtime.arguments import override_argv
from dskd_ds.runtime.console import child_environment
from dskd_ds.runtime.supervise import LaunchEnd, supervise
from dskd_ds.spec import RunSpec


def train_command(spec_path: str, overrides: Sequence[str], spec: RunSpec) -> list[str]:
    """Return the deepspeed command line that trains a run on this machine."""
    script = Path(__file__).parents[1] / "train.py"
    return [
        tool("deepspeed"),
        "--num_gpus",
        str(spec.topology.num_ranks),
        "--master_port",
        str(free_port()),
        _short(script),
        "--spec",
        spec_path,
        *override_argv(overrides),
    ]


def senses_command(
    spec_path: str, overrides: Sequence[str], num_ranks: int, flags: Sequence[str] = ()
) -> list[str]:
    """Return the mpirun command line that builds or refreshes a dictionary on this machine.

    flags: further arguments of commands/build_senses.py.
    """
    argv = ["--spec", spec_path, *override_argv(overrides), *flags]
    return _mpirun_module("dskd_ds.commands.build_senses", argv, num_ranks)


def continue_command(
    spec_path: str, overrides: Sequence[str], num_ranks: int, flags: Sequence[str]
) -> list[str]:
    """Return the mpirun command line that continues conversations on this machine.

    flags: further arguments of commands/continue_conversations.py.
    """
    argv = ["--spec", spec_path, *override_argv(overrides), *flags]
    return _mpirun_module("dskd_ds.commands.continue_conversations", argv, num_ranks)


def pack_command(spec_path: str, overrides: Sequence[str], num_ranks: int) -> list[str]:
    """Return the mpirun command line that packs a run's text on this machine."""
    argv = ["--spec", spec_path, *override_argv(overrides)]
    return _mpirun_module("dskd_ds.commands.pack_text", argv, num_ranks)


def fill_command(spec_path: str, overrides: Sequence[str], num_ranks: int) -> list[str]:
    """Return the mpirun command line that fills the cache of teacher signal on this machine."""
    argv = ["--spec", spec_path, *override_argv(overrides)]
    return _mpirun_module("dskd_ds.commands.fill_signals", argv, num_ranks)


def _mpirun_module(module: str, argv: Sequence[str], num_ranks: int) -> list[str]:
    # There may be more ranks than cores, and a rank may use several threads: mpirun must neither
    # refuse them nor bind each to one core.
    return [
        tool("mpirun"),
        "-n",
        str(num_ranks),
        "--bind-to",
        "none",
        "--oversubscribe",
        sys.executable,
        "-m",
        module,
        *argv,
    ]


def run(command: list[str]) -> int:
    """Print an mpirun command, run it to its end and return its exit code.

    Signals to this process are passed on to mpirun, which ends its ranks.
    """
    _print_command(command)
    return supervise(command, child_environment(os.environ)).code


def run_training(
    spec_path: str, overrides: Sequence[str], spec: RunSpec, restarts: int = 0
) -> LaunchEnd:
    """Run `train_command` to its end and return how it ended.

    Signals to this process are passed on to the students. They save and end, and the teachers end
    with them.

    restarts: how often the launch is started again after it saved and asked for it (exit code 3) or
        crashed; not if this process received a signal.
    """
    for restart in range(restarts + 1):
        # Made again for each start: the port of the last one may be taken by now.
        command = train_command(spec_path, overrides, spec)
        _print_command(command)
        end = supervise(command, child_environment(os.environ), spec.topology.num_students)
        if not end.is_worth_a_restart or restart == restarts:
            break
        print(f"{end.reason()}; restart {restart + 1} of {restarts}.", file=sys.stderr, flush=True)
    return end


def _print_command(command: list[str]) -> None:
    print(f"$ {shlex.join([_short(Path(command[0])), *command[1:]])}", flush=True)


def free_port() -> int:
    """Return a TCP port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tool(name: str) -> str:
    """Return the path of a command that pip installed beside this Python.

    Raises InputError if it is not installed there.
    """
    path = Path(sys.executable).with_name(name)
    if not path.is_file():
        raise InputError(
            f"{path}: {name} is not installed beside this Python.\n"
            "  pip install dskd-ds into this environment again."
        )
    return str(path)


def _short(path: Path) -> str:
    """Return the path relative to the current folder if it lies below it."""
    if path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return str(path)

"""A guarded command never outlives the process that starts it, whenever that one is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes.conftest import children_with

KILLED_WHILE_STARTING = """
import os, signal, sys
from dskd_ds.runtime import guarded
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(guarded, sys.argv[1], kill)
guarded.GuardedProcess(sys.argv[2:])
"""
KILLED_WHILE_WAITING = """
import os, signal, sys
from dskd_ds.runtime.guarded import GuardedProcess
child = GuardedProcess(sys.argv[2:])
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""
WRITES_AND_WAITS = """
import signal, sys
open(sys.argv[1], "w").close()
signal.pause()
"""
PATIENCE_SECONDS = 60.0


def wait_until_none_has(text: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while children_with(text):
        assert time.monotonic() < deadline, "a process is left"
        time.sleep(0.02)


@pytest.mark.parametrize("moment", ["_start_guard", "_write_line"])
def test_a_command_whose_starter_is_killed_does_not_start(tmp_path: Path, moment: str) -> None:
    path = str(tmp_path / "started")
    command = [sys.executable, "-c", WRITES_AND_WAITS, path]
    ended = subprocess.run([sys.executable, "-c", KILLED_WHILE_STARTING, moment, *command])
    assert ended.returncode == -signal.SIGKILL
    wait_until_none_has(path)
    assert not Path(path).exists()


def test_a_running_command_ends_with_its_starter(tmp_path: Path) -> None:
    path = tmp_path / "started"
    command = [sys.executable, "-c", WRITES_AND_WAITS, str(path)]
    starter = subprocess.Popen(
        [sys.executable, "-c", KILLED_WHILE_WAITING, "", *command], stdin=subprocess.PIPE
    )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not path.exists():
        assert starter.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    starter.communicate(b"\n")
    assert starter.returncode == -signal.SIGKILL
    wait_until_none_has(str(path))

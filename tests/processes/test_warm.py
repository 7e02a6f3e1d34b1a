"""Warm ranks behave as processes that Python starts: output, exit codes, signals, ends."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import psutil
import pytest

from tests.conftest import TinyWorld
from tests.processes.conftest import Launch, Start, children_with, ranks, wait_until
from tests.processes.warm_rank import pass_on, read_end

pytestmark = [pytest.mark.process, pytest.mark.fault]

RANK = """
import os, signal, subprocess, sys, threading
from pathlib import Path
def on_usr1(number, frame):
    print("rank", os.environ["OMPI_COMM_WORLD_RANK"], "got USR1", flush=True)
    sys.exit(3)
signal.signal(signal.SIGUSR1, on_usr1)
import torch
assert "deepspeed" in sys.modules and __name__ == "__main__" and threading.active_count() == 1
assert sys.path[0] == str(Path(__file__).parent)
if sys.argv[1] == "fail" and os.environ["OMPI_COMM_WORLD_RANK"] == "1":
    raise ValueError("rank 1 breaks")
if sys.argv[1] == "orphan":
    subprocess.Popen(["sleep", "61.25"])
Path(f"{sys.argv[2]}.{os.environ['OMPI_COMM_WORLD_RANK']}").write_text(str(os.getpid()))
while sys.argv[1] in ("wait", "fail"):
    signal.pause()
print("rank", os.environ["OMPI_COMM_WORLD_RANK"], "of", os.environ["OMPI_COMM_WORLD_SIZE"], "ends")
"""


@pytest.fixture
def script(tiny: TinyWorld) -> str:
    path = tiny.folder / "warm_test.py"
    path.write_text(RANK)
    return str(path)


def process_ids(files: list[Path]) -> list[int]:
    return [int(file.read_text()) for file in files if file.is_file() and file.read_text()]


def test_ranks_end_with_their_output_and_exit_code(
    launch: Launch, script: str, tmp_path: Path
) -> None:
    ended = launch(*ranks(2, script, "end", str(tmp_path / "pid")))
    assert ended.code == 0
    assert all(f"rank {rank} of 2 ends" in ended.output for rank in range(2))
    ended = launch(*ranks(2, script, "fail", str(tmp_path / "pid")))
    assert ended.code == 1
    assert ended.output.count("ValueError: rank 1 breaks") == 1
    ended = launch(*ranks(1, script, "orphan", str(tmp_path / "pid")))
    assert ended.code == 70
    assert "left a process behind" in ended.output
    assert not children_with("61.25")


def test_a_signal_reaches_ranks_and_a_killed_stand_in_takes_its_rank_along(
    start: Start, script: str, tmp_path: Path
) -> None:
    files = [tmp_path / f"pid.{rank}" for rank in range(2)]
    command = ranks(2, script, "wait", str(tmp_path / "pid"))
    for number, code in ((signal.SIGUSR1, 3), (signal.SIGKILL, 137)):
        process = start(*command)
        wait_until(lambda: len(process_ids(files)) == 2, process)
        found = process_ids(files)
        (first, *_) = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if "warm_rank.py" in " ".join(child.cmdline())
        ]
        first.send_signal(number)
        assert process.wait(60) == code
        psutil.wait_procs([psutil.Process(pid) for pid in found if psutil.pid_exists(pid)], 10)
        assert not any(psutil.pid_exists(pid) for pid in found)
        for file in files:
            file.unlink()


def test_a_signal_that_meets_the_end_of_its_rank_is_harmless() -> None:
    server, stand_in = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end = {"exit_code": 1, "signal": 0}
    with stand_in:
        pass_on(stand_in, signal.SIGTERM)
        server.send(json.dumps(end).encode())
        server.close()
        assert read_end(stand_in) == end
        pass_on(stand_in, signal.SIGTERM)

"""Signals to a command that launches ranks: they reach the ranks, and no process is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dskd_ds.observe.metrics import METRICS_FILE
from dskd_ds.runtime.arguments import override_argv
from tests.conftest import TinyWorld
from tests.processes.conftest import PATIENCE_SECONDS, Start, children_with, dskd, wait_until

pytestmark = [pytest.mark.process, pytest.mark.fault]

RANK = """
import os, signal, sys
def say(text):
    os.write(1, f"{text}\\n".encode())  # in one piece, because two ranks write
def stop(number, frame):
    say(f"rank {os.environ['RANK']} got {signal.Signals(number).name}")
    if "deaf" not in sys.argv:
        sys.exit(3)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGUSR1, stop)
say("rank is ready")
while True:
    signal.pause()
"""
LAUNCHER = """
import os, subprocess, sys
rank = [sys.executable, "-c", *sys.argv[1:]]
ranks = [subprocess.Popen(rank, env=os.environ | {"RANK": n, "LOCAL_RANK": n}) for n in "01"]
sys.exit(ranks[0].wait())  # rank 1 is left behind
"""
SLOW_LAUNCHER = """
import signal
print("rank is ready", flush=True)  # it is not, but the test need not wait longer
signal.pause()
"""
COMMAND = """
import os, sys
from dskd_ds.runtime.supervise import supervise
num_signalled, *command = sys.argv[1:]
sys.exit(supervise(command, os.environ, int(num_signalled) if num_signalled else None).code)
"""


class Command:
    """A process that supervises a launcher."""

    def __init__(self, marker: Path, launcher: str, num_ranks: int, num_signalled: str) -> None:
        argv = [sys.executable, "-c", COMMAND, num_signalled]
        argv += [sys.executable, "-c", launcher, RANK, str(marker)]
        self.argv, self.marker, self.num_ranks = argv, str(marker), num_ranks

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """Start it, and wait until the ranks are ready for signals."""
        self.process = subprocess.Popen([*self.argv, *argv], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        for _ in range(self.num_ranks):
            assert self.process.stdout.readline() == "rank is ready\n"
        return self.process

    def end(self) -> tuple[int, str]:
        """Wait for its end; returns exit code and output. None of its processes may be left."""
        output, _ = self.process.communicate(timeout=PATIENCE_SECONDS)
        assert not children_with(self.marker)
        return self.process.returncode, output


@pytest.fixture(autouse=True)
def leave_nothing(tmp_path: Path, tiny: TinyWorld) -> Iterator[None]:
    """End what a failed test has left."""
    yield
    for marker in (tmp_path, tiny.folder / "stopped"):
        for process_id in children_with(str(marker)):
            os.kill(process_id, signal.SIGKILL)


@pytest.mark.parametrize(
    ("sent", "received"), [("SIGTERM", "SIGTERM"), ("SIGINT", "SIGTERM"), ("SIGUSR1", "SIGUSR1")]
)
def test_a_signal_reaches_the_students_and_nothing_is_left(
    tmp_path: Path, sent: str, received: str
) -> None:
    command = Command(tmp_path, LAUNCHER, num_ranks=2, num_signalled="1")
    command.start().send_signal(signal.Signals[sent])
    code, output = command.end()
    assert code == 3
    # Rank 1 stands for a teacher: it is ended only after the launcher's end.
    assert output.splitlines() == [f"rank 0 got {received}", "rank 1 got SIGTERM"]


def test_a_second_interrupt_kills_all_ranks(tmp_path: Path) -> None:
    command = Command(tmp_path, LAUNCHER, num_ranks=2, num_signalled="2")
    process = command.start("deaf")
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert {process.stdout.readline() for _ in range(2)} == {
        "rank 0 got SIGTERM\n",
        "rank 1 got SIGTERM\n",
    }
    process.send_signal(signal.SIGINT)
    assert command.end() == (128 + signal.SIGKILL, "")


@pytest.mark.parametrize("num_signalled", ["", "1"], ids=["launcher like mpirun", "no rank yet"])
def test_a_launcher_without_ranks_is_ended(tmp_path: Path, num_signalled: str) -> None:
    command = Command(tmp_path, SLOW_LAUNCHER, num_ranks=1, num_signalled=num_signalled)
    command.start().send_signal(signal.SIGTERM)
    assert command.end() == (128 + signal.SIGTERM, "")


def test_ranks_end_when_the_command_is_killed(tmp_path: Path) -> None:
    command = Command(tmp_path, LAUNCHER, num_ranks=2, num_signalled="1")
    process = command.start()
    process.kill()
    # All processes of the launch hold the pipe, so the end of the output is their end.
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert set(output.splitlines()) == {"rank 0 got SIGTERM", "rank 1 got SIGTERM"}


@pytest.mark.slow
def test_sigterm_to_dskd_train_leaves_no_process(tiny: TinyWorld, start: Start) -> None:
    run_dir = tiny.folder / "stopped"
    overrides = [
        f"run_dir={run_dir}",
        "topology.num_students=1",
        "loss.sense_weight=0",
        "train.num_steps=100000",
        "student.layers=first",
    ]
    argv = [str(tiny.spec_file), *override_argv(overrides), "--restarts", "2"]
    process = start(*dskd("train", *argv))
    metrics = run_dir / METRICS_FILE
    wait_until(lambda: metrics.is_file() and metrics.stat().st_size > 0, process)
    assert len(children_with(str(run_dir))) > 3  # the command, the launcher and two ranks
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_SECONDS) == 3
    assert not children_with(str(run_dir)), "a process was left behind"
    output, _ = process.communicate()
    assert "restart 1 of 2" not in output
    assert output.count("--num_gpus 2") == 1

"""Launches over two nodes, with the teacher inside the launch and outside of it.

Both nodes are this machine; tests/processes/nodes.py says how.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from dskd_ds.observe.metrics import read_metrics
from dskd_ds.runtime.arguments import override_argv
from tests.conftest import TinyWorld
from tests.processes.conftest import PATIENCE_SECONDS, Environment, Start, children_with
from tests.processes.nodes import (
    Launcher,
    Nodes,
    deepspeed_hostfile,
    deepspeed_no_ssh,
    make_nodes,
    mpirun_hosts,
    torchrun_rendezvous,
)
from tests.processes.warm import warm

# Slow: the launches of this file take more time than `make test` has; CI runs them.
pytestmark = [pytest.mark.process, pytest.mark.slow]
LAUNCHERS = {
    "deepspeed --hostfile": deepspeed_hostfile,
    "deepspeed --hostfile --no_ssh": deepspeed_no_ssh,
    "torchrun --rdzv_backend c10d": torchrun_rendezvous,
    "mpirun --host": mpirun_hosts,
}
THROUGH_SSH = ("deepspeed --hostfile", "mpirun --host")
NUM_STEPS = 3


@pytest.fixture
def nodes(tmp_path: Path, variables: Environment) -> Nodes:
    """Two nodes, whose ssh and pdsh are first on PATH."""
    made = make_nodes(tmp_path / "nodes")
    variables["PATH"] = f"{made.folder}:{os.environ['PATH']}"
    return made


def argv_of(tiny: TinyWorld, run_dir: Path, *more: str) -> list[str]:
    """Return the arguments of a run without senses over several nodes."""
    keys = (
        f"run_dir={run_dir}",
        "loss.sense_weight=0",
        "student.layers=first",
        f"train.num_steps={NUM_STEPS}",
        "checkpoint.every_steps=0",
        "monitor.tensorboard=false",
        "link.address=hostname",
        # On a busy machine the students need long to start.
        f"link.teacher_wait_seconds={PATIENCE_SECONDS}",
        *more,
    )
    return ["--spec", str(tiny.spec_file), *override_argv(keys)]


def run_to_the_end(start: Start, commands: list[list[str]]) -> list[int]:
    """Start the commands of one launch, and return their exit codes."""
    processes = [start(*command) for command in commands]
    return [process.wait(PATIENCE_SECONDS) for process in processes]


@pytest.mark.parametrize("name", LAUNCHERS)
@pytest.mark.parametrize("is_inside", [True, False], ids=["teacher inside", "teacher outside"])
def test_two_nodes(tiny: TinyWorld, start: Start, nodes: Nodes, name: str, is_inside: bool) -> None:
    launcher: Launcher = LAUNCHERS[name]
    run_dir = tiny.folder / f"{launcher.__name__}-{'inside' if is_inside else 'outside'}"
    argv = argv_of(tiny, run_dir, f"topology.num_teachers={int(is_inside)}")
    teachers = []
    if not is_inside:
        teachers = [start(*warm([sys.executable, "-m", "dskd_ds.teacher", *argv]))]
    num_ranks = (2, 1) if is_inside else (1, 1)
    codes = run_to_the_end(start, launcher(nodes, num_ranks, ["dskd_ds/train.py", *argv]))
    assert set(codes) == {0}
    assert [teacher.wait(PATIENCE_SECONDS) for teacher in teachers] == [0] * len(teachers)
    records = read_metrics(run_dir)
    assert [record["step"] for record in records] == list(range(1, NUM_STEPS + 1))
    assert nodes.reached == (["node1", "node2"] if name in THROUGH_SSH else [])
    assert not children_with(str(run_dir))
    # The same two students and the same teacher, wherever they are, give the same bits.
    losses = [record["loss"] for record in records]
    assert losses == expected_losses(tiny, losses)


def expected_losses(tiny: TinyWorld, found: list[float]) -> list[float]:
    """Return the losses of the first launch of this session, which are `found` if this is it."""
    file = tiny.folder / "losses_on_two_nodes"
    if not file.is_file():
        file.write_text("\n".join(map(repr, found)))
    return [float(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("name", ["torchrun --rdzv_backend c10d", "mpirun --host"])
def test_an_address_that_other_nodes_cannot_reach_is_refused(
    tiny: TinyWorld, start: Start, nodes: Nodes, name: str
) -> None:
    run_dir = tiny.folder / f"refused-{LAUNCHERS[name].__name__}"
    argv = argv_of(tiny, run_dir, "link.address=127.0.0.1")
    commands = LAUNCHERS[name](nodes, (2, 1), ["dskd_ds/train.py", *argv])
    processes = [start(*command) for command in commands]
    output = "".join(process.communicate(timeout=PATIENCE_SECONDS)[0] for process in processes)
    assert all(process.returncode for process in processes)
    reason = "this launch has several nodes, and 127.0.0.1 is reached from its own node only"
    assert reason in output
    assert not run_dir.exists()  # refused before anything is written

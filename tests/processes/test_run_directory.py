"""A run directory that another launch uses, or in which somebody damaged or planted files."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import pytest

from dskd_ds.observe.metrics import read_metrics
from dskd_ds.runtime.arguments import override_argv
from dskd_ds.student.run_lock import LEASE_FILE
from tests.conftest import TinyWorld
from tests.processes.conftest import Launch, Start, ranks
from tests.unit.student.test_run_lock import HOLD

# Slow: the launches of this file take more time than `make test` has; CI runs them.
pytestmark = [pytest.mark.process, pytest.mark.fault, pytest.mark.slow]
PLANTED = "zero_pp_rank_0_mp_rank_-1_model_states.pt"
"""DeepSpeed would look for zero_pp_rank_0_mp_rank_*_model_states.pt, and unpickle the first one."""


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (str(self._path), os.O_CREAT | os.O_WRONLY)


def argv_of(tiny: TinyWorld, *overrides: str) -> list[str]:
    """Return the arguments of a run of two steps without senses, on one student and a teacher."""
    keys = (
        f"run_dir={tiny.folder / 'locked'}",
        "loss.sense_weight=0",
        "student.layers=first",
        "topology.num_students=1",
        "checkpoint.every_steps=1",
        "monitor.tensorboard=false",
        "train.num_steps=2",
        *overrides,
    )
    return [str(tiny.spec_file), *override_argv(keys)]


def train(num_ranks: int, argv: list[str]) -> list[str]:
    """Return the command line of a launch with these arguments."""
    return ranks(num_ranks, "dskd_ds/train.py", "--spec", *argv)


@pytest.fixture
def run_dir(tiny: TinyWorld, launch: Launch) -> Path:
    """A run of two steps, trained once per session."""
    folder = tiny.folder / "locked"
    if not (folder / "student").is_dir():
        assert launch(*train(2, argv_of(tiny))).code == 0
    return folder


def test_one_launch_at_a_time_and_a_killed_one_is_replaced(
    tiny: TinyWorld, launch: Launch, start: Start
) -> None:
    folder = tiny.folder / "locked"
    holder = start(sys.executable, "-c", HOLD, str(folder))
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    second = argv_of(tiny, "topology.num_students=2", "topology.num_teachers=0", "name=second")
    refused = launch(*train(2, second), marker="name=second")
    assert refused.code == 2
    message = f"another launch is using this run directory: process {holder.pid} on "
    assert refused.output.count(message) == 1
    assert "Traceback" not in refused.output
    assert {path.name for path in folder.iterdir()} == {LEASE_FILE, f"{LEASE_FILE}.lock"}
    holder.kill()
    holder.wait()
    assert launch(*train(2, argv_of(tiny))).code == 0
    assert not (folder / LEASE_FILE).exists()


def test_planted_files_are_refused_and_damaged_checkpoints_passed_over(
    tiny: TinyWorld, launch: Launch, run_dir: Path
) -> None:
    newest = run_dir / "checkpoints" / "step-00000002"
    exploded = tiny.folder / "exploded"
    # Refused before a teacher is needed.
    (newest / PLANTED).write_bytes(pickle.dumps(Bomb(exploded)))
    refused = launch(*train(1, argv_of(tiny, "topology.num_teachers=0")))
    assert refused.code == 2
    assert f"{newest / PLANTED}: not listed in" in refused.output
    assert not exploded.exists()
    (newest / PLANTED).unlink()

    before = read_metrics(run_dir)
    (damaged,) = newest.glob("*.safetensors")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    resumed = launch(*train(2, argv_of(tiny, "train.num_steps=3")))
    assert resumed.code == 0
    assert f"{damaged}: its content differs from the manifest" in resumed.output
    assert "the run continues from step-00000001" in resumed.output
    after = read_metrics(run_dir)
    assert [record["step"] for record in after] == [1, 2, 3]
    # The schedule is longer now, but step 2 starts with the weights of the same step 1.
    assert after[1]["loss"] == before[1]["loss"]

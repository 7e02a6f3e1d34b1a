"""A student that is killed while it trains: the same command goes on to the same weights.

The run has everything whose state a checkpoint must bring back, or that is read again: streamed
conversations, text that the student writes itself, dropout, saves in the background, and the best
checkpoint by a loss on held-out text.
"""

from __future__ import annotations

import json
import subprocess
import time
from functools import partial
from pathlib import Path
from random import Random

import psutil
import pytest
import tomli_w

from dskd_ds.observe.metrics import METRICS_FILE, read_metrics
from dskd_ds.runtime.arguments import override_argv
from dskd_ds.student.run_lock import LEASE_FILE
from tests.conftest import WORDS, TinyWorld
from tests.processes.conftest import Launch, Start, children_with, ranks, wait_until
from tests.seeds import seeds

# Slow: the launches of this file take more time than `make test` has; CI runs them.
pytestmark = [pytest.mark.process, pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(1500)]

NUM_STUDENTS = 2
NUM_STEPS = 12
FIRST_STEPS = (1, 7)
"""Each kill comes after one of three steps, of which this is the first."""
EXACT = ("loss", "loss_ce", "loss_kd", "grad_norm", "step_tokens", "on_policy_share")
SETTINGS = (
    "loss.sense_weight=0",
    "student.layers=first",
    "student.attention_dropout=0.1",
    "data.stream=true",
    "data.stream_group_documents=20",
    "data.block_tokens=64",
    "data.chat_template=plain",
    "train.on_policy_fraction=0.5",
    "train.on_policy_prompt_tokens=8",
    "train.on_policy_new_tokens=6",
    f"train.num_steps={NUM_STEPS}",
    "checkpoint.every_steps=1",
    "checkpoint.keep=2",
    "checkpoint.keep_best=true",
    "checkpoint.asynchronous=true",
    "monitor.heldout_tokens=96",
    "monitor.tensorboard=false",
)


@pytest.fixture
def spec_file(tiny: TinyWorld) -> Path:
    """The tiny world's spec with a stream of conversations."""
    chats, path = tiny.folder / "chats.jsonl", tiny.folder / "streamed.toml"
    draw = Random(0)
    lines = []
    for _ in range(400):
        asked, said = (" ".join(draw.choices(WORDS, k=draw.randint(4, 9))) for _ in range(2))
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        lines.append(json.dumps({"messages": messages}))
    chats.write_text("\n".join(lines) + "\n")
    source = {"path": str(chats), "format": "chat", "supervise": "completions"}
    tree = tiny.spec_tree_with({"data": {"train": [source]}})
    path.write_text(tomli_w.dumps(tree))
    return path


def argv_of(spec_file: Path, run_dir: Path) -> list[str]:
    """Return a launch of two students and a teacher."""
    overrides = (f"run_dir={run_dir}", *SETTINGS)
    return ranks(
        NUM_STUDENTS + 1, "dskd_ds/train.py", "--spec", str(spec_file), *override_argv(overrides)
    )


def process_of_student(run_dir: Path, rank: int) -> psutil.Process:
    """Return a student of the launch on this run directory, which is the stand-in of a warm rank.

    If the stand-in is killed, the rank is killed too (tests/processes/warm.py).
    """
    processes = [psutil.Process(process_id) for process_id in children_with(f"run_dir={run_dir}")]
    (student,) = [
        process
        for process in processes
        if process.environ().get("OMPI_COMM_WORLD_RANK") == str(rank)
    ]
    return student


def has_trained(run_dir: Path, attempt: int, num_steps: int) -> bool:
    """Return whether a launch, counted from 1, has trained up to a step."""
    records = read_metrics(run_dir) if (run_dir / METRICS_FILE).is_file() else []
    return len(records) >= num_steps and records[-1]["attempt"] == attempt


@pytest.fixture
def undisturbed(tiny: TinyWorld, spec_file: Path, launch: Launch) -> Path:
    """A finished run; trained once per session."""
    run_dir = tiny.folder / "never-killed"
    if not (run_dir / "student").is_dir():
        assert launch(*argv_of(spec_file, run_dir)).code == 0
    return run_dir


def kill_a_student(launch: subprocess.Popen[str], run_dir: Path, draw: Random) -> None:
    """Kill a random student within two steps, and wait for the end of its launch."""
    owner = psutil.Process(json.loads((run_dir / LEASE_FILE).read_text())["pid"])
    student = process_of_student(run_dir, rank=draw.randrange(NUM_STUDENTS))
    # The moment is what is random here; the run has at least three more steps to do.
    time.sleep(2 * draw.random() * read_metrics(run_dir)[-1]["step_seconds"])
    student.kill()
    assert launch.wait(120) != 0
    psutil.wait_procs([owner], timeout=60)


@pytest.mark.parametrize("seed", seeds(in_ci=2, in_soak=20))
def test_the_same_command_goes_on_to_the_same_weights(
    tiny: TinyWorld, spec_file: Path, launch: Launch, start: Start, undisturbed: Path, seed: int
) -> None:
    """A random student is killed at a random moment; what goes on is killed once more."""
    draw = Random(seed)
    run_dir = tiny.folder / f"killed-student-{seed}"
    for attempt, first in enumerate(FIRST_STEPS, start=1):
        step = draw.randrange(first, first + 3)
        killed = start(*argv_of(spec_file, run_dir))
        wait_until(partial(has_trained, run_dir, attempt, step), killed)
        kill_a_student(killed, run_dir, draw)
    assert launch(*argv_of(spec_file, run_dir)).code == 0
    for expected, found in zip(read_metrics(undisturbed), read_metrics(run_dir), strict=True):
        assert {key: found[key] for key in EXACT} == {key: expected[key] for key in EXACT}
        assert found.get("heldout_loss") == expected.get("heldout_loss")
    weights = Path("student") / "model.safetensors"
    assert (run_dir / weights).read_bytes() == (undisturbed / weights).read_bytes()
    kept, of_undisturbed = (
        sorted(path.name for path in (folder / "checkpoints").iterdir())
        for folder in (run_dir, undisturbed)
    )
    assert kept == of_undisturbed

"""A run with several teachers: text goes to the teacher of its source, and so does failover."""

from __future__ import annotations

import json
import random
import signal
import sys
from pathlib import Path

import pytest
import tomli_w

from dskd_ds.commands.status import read_status
from dskd_ds.link.keys import read_addresses
from dskd_ds.models.routed import TEACHERS_FOLDER
from dskd_ds.observe.metrics import METRICS_FILE, read_lines, read_metrics
from dskd_ds.observe.status import TeacherStatus
from dskd_ds.observe.status_text import status_text
from dskd_ds.runtime.arguments import override_argv
from tests.conftest import WORDS, TinyWorld, write_model
from tests.processes.conftest import (
    PATIENCE_SECONDS,
    Launch,
    Start,
    ranks,
    wait_until,
    warm_dskd,
)
from tests.processes.warm import warm

pytestmark = [pytest.mark.process, pytest.mark.slow]
NUM_STEPS = 30
OUTPUT = "output.txt"
EXACT = ("loss", "loss_ce", "loss_kd", "grad_norm")


@pytest.fixture(scope="module")
def spec_file(tiny: TinyWorld) -> Path:
    """A spec with a second text, and a wider teacher for it."""
    wide = write_model(
        tiny.folder / "wide_teacher", tiny.folder, num_layers=2, seed=5, hidden_size=64
    )
    draw = random.Random(9)
    code = tiny.folder / "code.jsonl"
    texts = (" ".join(draw.choices(WORDS[:20], k=draw.randint(20, 60))) for _ in range(80))
    code.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    tree = tiny.spec_tree_with(
        {
            "student": {"layers": "first"},
            "loss": {"sense_weight": 0.0},
            "train": {
                "num_steps": NUM_STEPS,
                "global_batch_blocks": 4,
                "micro_batch_blocks": 2,
            },
            "topology": {"num_students": 1, "num_teachers": 2},
            "checkpoint": {"every_steps": 0},
            "link": {"heartbeat_seconds": 0.5, "dead_after_seconds": 3.0},
        }
    )
    data = tree["data"]
    assert isinstance(data, dict)
    train = [
        {**data["train"][0], "weight": 2.0},
        {"path": str(code), "weight": 1.0, "teacher": "code"},
    ]
    tree["data"] = {**data, "train": train}
    tree["teachers"] = [{"name": "code", "model": str(wide), "dtype": "float32", "weight": 0.5}]
    path = tiny.folder / "routed.toml"
    path.write_text(tomli_w.dumps(tree))
    return path


def teachers_of(run_dir: Path) -> list[TeacherStatus]:
    """Return all teachers that the status of a run lists."""
    return [teacher for node in read_status(run_dir).nodes for teacher in node.teachers]


def losses_of(run_dir: Path) -> list[list[float]]:
    return [[record[key] for key in EXACT] for record in read_metrics(run_dir)]


@pytest.fixture
def reference(tiny: TinyWorld, launch: Launch, spec_file: Path) -> Path:
    """A run with both teachers in its launch, and what it printed; trained once per session."""
    run_dir = tiny.folder / "routed_in_a_launch"
    if not (run_dir / OUTPUT).is_file():
        argv = ["--spec", str(spec_file), *override_argv([f"run_dir={run_dir}"])]
        ended = launch(*ranks(3, "dskd_ds/train.py", *argv))
        assert ended.code == 0
        (run_dir / OUTPUT).write_text(ended.output)
    return run_dir


def test_each_teacher_of_a_launch_answers_for_its_own_text(
    launch: Launch, spec_file: Path, reference: Path
) -> None:
    checked = launch(*warm_dskd("train", str(spec_file), "--dry-run"))
    assert checked.code == 0
    assert "1 replica, weight 0.5, asked about" in checked.output
    output = (reference / OUTPUT).read_text()
    assert "teacher code: alignment self-test: targets' log-probability" in output
    done = {teacher.name: teacher.num_done for teacher in teachers_of(reference)}
    # 60 micro-batches of two blocks, of which a third is code: some have blocks of both.
    assert set(done) == {"code", "main"}
    assert 2 * NUM_STEPS / 3 <= done["code"] < done["main"] <= 2 * NUM_STEPS
    assert sum(done.values()) >= 2 * NUM_STEPS
    assert "(code)" in status_text(read_status(reference))
    assert len(losses_of(reference)) == NUM_STEPS


@pytest.mark.fault
def test_a_killed_replica_is_replaced_by_one_of_its_name(
    tiny: TinyWorld, start: Start, spec_file: Path, reference: Path
) -> None:
    run_dir = tiny.folder / "routed_steps"
    overrides = (f"run_dir={run_dir}", "topology.num_teachers=0")
    argv = ["--spec", str(spec_file), *override_argv(overrides)]
    command = [sys.executable, "-m", "dskd_ds.teacher", *argv]
    main = start(*warm([*command, "--teacher", "main"]))
    doomed, other = (
        start(*warm([*command, "--teacher", "code", "--replica", number])) for number in "12"
    )
    student = start(*ranks(1, "dskd_ds/train.py", *argv))
    wait_until(lambda: len(read_lines(run_dir / METRICS_FILE)) >= 2, student)
    assert len(read_addresses(run_dir / TEACHERS_FOLDER / "code")) == 1
    doomed.send_signal(signal.SIGKILL)
    assert doomed.wait(30) == -signal.SIGKILL
    assert len(read_lines(run_dir / METRICS_FILE)) < NUM_STEPS, "it was killed after the last step"
    assert student.wait(PATIENCE_SECONDS) == 0
    assert [teacher.wait(30) for teacher in (main, other)] == [0, 0]
    assert losses_of(run_dir) == losses_of(reference)

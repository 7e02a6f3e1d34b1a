"""`dskd eval --watch` beside a real training that deletes its older checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tomli_w
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dskd_ds.commands.watch_checkpoints import read_scores
from dskd_ds.evaluation.items import items_path, read_items
from tests.conftest import TinyWorld
from tests.processes.conftest import Launch, Start, dskd

pytestmark = [pytest.mark.process, pytest.mark.slow]

NUM_STEPS = 6


def write_spec(tiny: TinyWorld, folder: Path) -> Path:
    """Write a run that saves after each step and keeps only the newest checkpoint."""
    changes: dict[str, dict[str, object]] = {
        "train": {"num_steps": NUM_STEPS},
        "loss": {"sense_weight": 0.0},
        "topology": {"num_students": 1},
        "checkpoint": {"every_steps": 1, "keep": 1},
    }
    tree = tiny.spec_tree_with(changes)
    tree["run_dir"] = str(folder / "run")
    path = folder / "watched.toml"
    path.write_text(tomli_w.dumps(tree))
    return path


@pytest.mark.timeout(1200)
def test_checkpoints_are_scored_beside_the_training(
    tiny: TinyWorld, launch: Launch, start: Start, tmp_path: Path
) -> None:
    spec = write_spec(tiny, tmp_path)
    run_dir = tmp_path / "run"
    # It is started first, and waits for the run.
    watcher = start(*dskd("eval", "--watch", str(spec), "--every", "0.2"))
    training = start(*dskd("train", str(spec)))
    assert training.wait(timeout=400) == 0
    assert watcher.wait(timeout=600) == 0
    lines = read_scores(run_dir)
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps))
    assert steps[-1] == NUM_STEPS
    board = EventAccumulator(str(run_dir / "tensorboard" / "evaluation")).Reload()
    for key in ("kl", "perplexity", "kl_quarter_1", "kl_quarter_4"):
        drawn = [(event.step, event.value) for event in board.Scalars(f"evaluation/{key}")]
        expected = [(line["step"], line["scores"][key]) for line in lines]
        assert [step for step, _ in drawn] == steps
        assert [value for _, value in drawn] == pytest.approx([value for _, value in expected])
    # The last checkpoint is the student that the training exported.
    evaluated = launch(*dskd("eval", str(spec), "--model", "after"), marker=str(tmp_path))
    assert evaluated.code == 0
    exported = read_items(items_path(run_dir, "heldout", "after"))
    scored = read_items(items_path(run_dir, "heldout", f"step-{NUM_STEPS:08d}"))
    assert exported.digest == scored.digest
    assert scored.values["kl"] == pytest.approx(exported.values["kl"], abs=1e-6)
    assert not (run_dir / "evaluation" / "watched" / f"step-{NUM_STEPS:08d}").exists()

    # A damaged checkpoint costs its own score only, and the others are not scored again.
    good = run_dir / "checkpoints" / f"step-{NUM_STEPS:08d}"
    damaged = run_dir / "checkpoints" / "step-00000001"
    shutil.rmtree(damaged, ignore_errors=True)
    shutil.copytree(good, damaged)
    largest = max(damaged.iterdir(), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-8])
    before = (run_dir / "evaluation" / "checkpoints.jsonl").read_text()
    again = launch(*dskd("eval", "--watch", str(run_dir), "--once"), marker=str(tmp_path))
    assert again.code == 1
    assert "step-00000001: scoring ended with exit code 2; it is left out" in again.output
    assert (run_dir / "evaluation" / "checkpoints.jsonl").read_text() == before
    assert json.loads(before.splitlines()[-1])["step"] == NUM_STEPS

"""The checkpoint with the lowest loss on held-out text: kept, found and exported."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from dskd_ds.errors import InputError
from dskd_ds.models.named import RunModels
from dskd_ds.observe.best_checkpoint import HeldoutScore, best_checkpoint
from dskd_ds.observe.evidence import read_evidence
from dskd_ds.observe.judge import judge
from dskd_ds.observe.status_text import status_text
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student import export
from dskd_ds.student.checkpoint.folders import checkpoint_dir, complete_tags
from dskd_ds.student.checkpoint.store import Progress
from tests.unit.student.ranks import use_ranks
from tests.unit.student.small_engine import SmallEngine, checkpoints_of

TEXT = "digest of a text"


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunSpec:
    """The spec of a run that keeps two checkpoints and the best one."""
    use_ranks(monkeypatch, 1)
    settings = ["topology.num_students=1", "checkpoint.keep=2", "checkpoint.keep_best=true"]
    return load_spec("tests/base_run.toml", [f"run_dir={tmp_path}", *settings])


def save_all(spec: RunSpec, losses: dict[int, float | None], text: str = TEXT) -> None:
    """Save after some steps. losses: of each step; None if it was not measured."""
    for step, loss in losses.items():
        score = None if loss is None else HeldoutScore(loss, text)
        checkpoints = checkpoints_of(SmallEngine().train(step), spec)
        checkpoints.save(Progress(step, 10 * step), heldout=score)


def steps_of(spec: RunSpec) -> list[int]:
    """Return the steps of the checkpoints that are there."""
    return [int(tag.removeprefix("step-")) for tag in complete_tags(spec)]


def test_the_best_one_is_kept_besides_the_newest(spec: RunSpec) -> None:
    save_all(spec, {1: 3.0, 2: 2.5, 3: 2.7, 4: 2.6, 5: 2.8})
    assert steps_of(spec) == [2, 4, 5]
    save_all(spec, {6: 2.4, 7: 2.9})
    assert steps_of(spec) == [6, 7]  # the best is one of the newest
    save_all(spec, {8: math.nan, 9: None})
    assert steps_of(spec) == [6, 8, 9]


def test_without_the_setting_it_goes(spec: RunSpec) -> None:
    checkpoint = spec.checkpoint.model_copy(update={"keep_best": False})
    save_all(spec.model_copy(update={"checkpoint": checkpoint}), {1: 2.0, 2: 3.0, 3: 3.0})
    assert steps_of(spec) == [2, 3]


def test_losses_on_another_text_do_not_count(spec: RunSpec) -> None:
    save_all(spec, {1: 1.0, 2: 3.0}, text="an easy text")
    save_all(spec, {3: 4.0, 4: 5.0, 5: 6.0})
    best = best_checkpoint(checkpoint_dir(spec))
    assert best is not None
    assert (best.step, best.loss) == (3, 4.0)
    assert steps_of(spec) == [3, 4, 5]


def test_a_rollback_takes_the_best_only_if_nothing_newer_is_whole(spec: RunSpec) -> None:
    save_all(spec, {1: 2.0, 2: 3.0, 3: 3.0, 4: 3.0})
    assert steps_of(spec) == [1, 3, 4]
    engine = SmallEngine()
    assert checkpoints_of(engine, spec).restore_weights(before=4) == Progress(3, 30)
    assert checkpoints_of(engine, spec).restore_weights(before=3) == Progress(1, 10)
    assert engine.numbers()[1:] == SmallEngine().train(1).numbers()[1:]


def test_a_resumed_run_goes_on_from_the_newest_and_still_keeps_the_best(spec: RunSpec) -> None:
    save_all(spec, {1: 2.0, 2: 3.0, 3: 3.0})
    assert checkpoints_of(SmallEngine(), spec).resume() == Progress(3, 30)
    save_all(spec, {4: 3.0})
    assert steps_of(spec) == [1, 3, 4]


def test_status_names_it(spec: RunSpec) -> None:
    save_all(spec, {1: 2.0, 2: 3.0})
    run_dir = Path(spec.run_dir)
    (run_dir / "metrics.jsonl").write_text(json.dumps({"step": 2, "step_seconds": 1.0}) + "\n")
    status = judge(read_evidence(run_dir, lease=None, now=0.0))
    assert "step 1, 2.0000 nats on held-out text (dskd export SPEC --tag best)" in " ".join(
        status_text(status).split()
    )


def test_export_takes_it(spec: RunSpec) -> None:
    save_all(spec, {1: 2.0, 2: 3.0})
    assert export._candidates(spec, export.BEST) == ["step-00000001"]


def test_export_says_that_none_was_measured(spec: RunSpec) -> None:
    save_all(spec, {1: None})
    with pytest.raises(InputError, match=r"no checkpoint .* has a loss on held-out text"):
        export.export_checkpoint(spec, RunModels.of(spec), export.BEST)

"""Saves in the background, and saves that are killed between two writes."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dskd_ds.errors import ExitCode, SaveError
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.checkpoint import saving, store
from dskd_ds.student.checkpoint.folders import checkpoint_dir, complete_tags
from dskd_ds.student.checkpoint.store import Progress
from dskd_ds.student.counts import Counts
from dskd_ds.student.loop import save_at_end
from dskd_ds.student.skips import Skips, StepFacts
from dskd_ds.student.training import Training
from dskd_ds.student.verdict import Verdict
from tests.unit.student.ranks import use_ranks
from tests.unit.student.small_engine import SmallEngine, checkpoints_of, save


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunSpec:
    """The spec of a run with one student, without torch.distributed."""
    use_ranks(monkeypatch, 1)
    settings = [f"run_dir={tmp_path}", "topology.num_students=1"]
    return load_spec("tests/base_run.toml", settings)


class Gate:
    """Holds the writing thread back, and lets it end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.open = threading.Event()
        write = saving.write_slices

        def write_later(*args: Any) -> Any:
            assert self.open.wait(30)
            if error:
                raise error
            return write(*args)

        monkeypatch.setattr(saving, "write_slices", write_later)


def test_training_goes_on_while_a_thread_writes_what_was_there(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    engine = SmallEngine().train(3)
    checkpoints = checkpoints_of(engine, spec)
    checkpoints.save(Progress(3, 30), in_background=True)
    engine.train(2)
    assert checkpoints.is_saving
    assert not checkpoints.is_save_written()
    assert complete_tags(spec) == []
    gate.open.set()
    checkpoints.complete_save()
    assert not checkpoints.is_saving
    loaded = SmallEngine()
    assert checkpoints_of(loaded, spec).resume() == Progress(3, 30)
    assert loaded.numbers() == SmallEngine().train(3).numbers()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError()])
def test_an_error_of_the_thread_is_met_when_the_save_is_completed(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    save(SmallEngine(), spec, 2)
    gate = Gate(monkeypatch, error)
    checkpoints = checkpoints_of(SmallEngine(), spec)
    checkpoints.save(Progress(3, 30), in_background=True)
    gate.open.set()
    with pytest.raises(SaveError, match="step-00000003: this checkpoint cannot be written"):
        checkpoints.complete_save()
    assert [path.name for path in checkpoint_dir(spec).iterdir()] == ["step-00000002"]


def test_a_thread_deletes_the_oldest_and_the_next_save_waits_for_it(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec.model_copy(update={"checkpoint": spec.checkpoint.model_copy(update={"keep": 1})})
    checkpoints, may_delete = checkpoints_of(SmallEngine(), spec), threading.Event()
    remove_all = store.remove_all

    def remove_later(paths: Sequence[Path]) -> None:
        assert may_delete.wait(30)
        remove_all(paths)

    monkeypatch.setattr(store, "remove_all", remove_later)
    for step in (1, 2):
        checkpoints.save(Progress(step, 10 * step), in_background=True)
        checkpoints.complete_save()
    assert complete_tags(spec) == ["step-00000001", "step-00000002"]
    may_delete.set()
    checkpoints.save(Progress(3, 30), in_background=True)
    assert complete_tags(spec) == ["step-00000002"]
    checkpoints.complete_save()
    checkpoints.save(Progress(4, 40))
    assert complete_tags(spec) == ["step-00000004"]


@pytest.mark.parametrize("exit_code", [ExitCode.DONE, ExitCode.NO_TEACHER])
def test_a_save_amid_skipped_steps_leaves_the_checkpoint_that_a_rollback_needs(
    spec: RunSpec, exit_code: ExitCode
) -> None:
    spec = spec.model_copy(update={"checkpoint": spec.checkpoint.model_copy(update={"keep": 2})})
    checkpoints = checkpoints_of(SmallEngine(), spec)
    training = Training(
        spec,
        rank=0,
        engine=Any,
        steps=Any,
        blocks=Any,
        num_done=1,
        num_steps=9,
        tokens=10,
        skips=Skips(spec.train),
        checkpoints=checkpoints,
    )
    for step, loss in ((1, 1.0), (2, 1.0), (3, math.nan)):
        training.num_done = step
        training.skips.note(step, StepFacts([loss], math.inf, is_applied=loss == 1.0))
        verdict = Verdict(Counts(1, 1), exit_code, is_stop_wanted=True, is_save_due=False)
        save_at_end(training, verdict)
    assert len(complete_tags(spec)) == 3
    assert training.restore_weights(before=training.skips.weights_step) == 1


class Killed(BaseException):
    """The process ends here."""


WRITES = ("remove", "write_json", "write_slices", "describe_file", "store_manifest")


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("function", WRITES)
def test_a_save_that_is_killed_between_two_writes_leaves_the_one_before(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch, function: str, is_after: bool
) -> None:
    save(SmallEngine().train(2), spec, 2)
    write = getattr(saving, function)

    def write_and_die(*args: Any) -> None:
        if is_after:
            write(*args)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(saving, function, write_and_die)
        with pytest.raises(Killed):
            save(SmallEngine().train(3), spec, 3)
    is_complete = function == "store_manifest" and is_after
    step = 3 if is_complete else 2
    engine = SmallEngine()
    assert checkpoints_of(engine, spec).resume() == Progress(step, 10 * step)
    assert engine.numbers() == SmallEngine().train(step).numbers()
    # Nothing is left of the killed save.
    folders = sorted(path.name for path in checkpoint_dir(spec).iterdir())
    assert folders == complete_tags(spec)
    save(SmallEngine().train(3), spec, 3)
    assert complete_tags(spec)[-1] == "step-00000003"

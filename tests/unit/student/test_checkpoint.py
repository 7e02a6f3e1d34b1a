"""Checkpoints: written once, complete or ignored, and what comes back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dskd_ds.errors import InputError, SaveError
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.spec.terms import LayerTermSpec
from dskd_ds.spec.training import CheckpointSpec
from dskd_ds.student.checkpoint import saving, slice_files
from dskd_ds.student.checkpoint.folders import checkpoint_dir, complete_tags
from dskd_ds.student.checkpoint.store import Checkpoints, Progress
from dskd_ds.student.session import open_checkpoints
from dskd_ds.student.skips import Skips
from tests.unit.conftest import dictionary_in
from tests.unit.student.ranks import on_all_ranks, use_ranks
from tests.unit.student.small_engine import INIT, SmallEngine, checkpoints_of, save


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunSpec:
    """The spec of a run with one student, without torch.distributed."""
    use_ranks(monkeypatch, 1)
    return load_spec(
        "tests/base_run.toml",
        [f"run_dir={tmp_path}", "checkpoint.keep=1", "topology.num_students=1"],
    )


def test_a_complete_checkpoint_is_not_written_again(spec: RunSpec) -> None:
    interrupted = checkpoint_dir(spec) / "step-00000003"
    interrupted.mkdir(parents=True)
    (interrupted / "student-00000-007.safetensors").write_text("of an interrupted save")
    save(SmallEngine().train(3), spec, 3)
    save(SmallEngine().train(9), spec, 3)
    assert complete_tags(spec) == ["step-00000003"]
    engine = SmallEngine()
    assert checkpoints_of(engine, spec).resume() == Progress(3, 30)
    assert engine.numbers() == SmallEngine().train(3).numbers()
    save(SmallEngine(), spec, 4)
    assert [path.name for path in checkpoint_dir(spec).iterdir()] == ["step-00000004"]  # keep = 1


def test_rank_0_decides_for_all_ranks(spec: RunSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that sees the manifest late must not wait alone in a collective call."""
    save(SmallEngine(), spec, 3)
    comm = use_ranks(monkeypatch, 2)
    late = spec.model_copy(update={"run_dir": f"{spec.run_dir}/nothing-yet"})
    monkeypatch.setattr(saving, "write_slices", None)
    results = on_all_ranks(comm, lambda rank: save(SmallEngine(), (spec, late)[rank], 3))
    assert results == [None, None]


def test_a_half_deleted_checkpoint_is_not_complete(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(SmallEngine(), spec, 3)

    def fail(path: Path) -> None:
        raise OSError(f"cannot delete {path}")

    monkeypatch.setattr(shutil, "rmtree", fail)
    save(SmallEngine(), spec, 4)
    assert "it is not needed but cannot be deleted: cannot delete" in capsys.readouterr().err
    assert complete_tags(spec) == ["step-00000004"]


@pytest.mark.parametrize("function", ["write_slices", "write_json", "store_manifest"])
def test_a_full_disk_leaves_the_earlier_checkpoint(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    save(SmallEngine(), spec, 3)
    with monkeypatch.context() as patch:
        patch.setattr(saving, function, fail)
        with pytest.raises(SaveError, match=r"step-00000004: this checkpoint cannot .* No space"):
            save(SmallEngine(), spec, 4)
    assert [path.name for path in checkpoint_dir(spec).iterdir()] == ["step-00000003"]
    save(SmallEngine(), spec, 4)
    assert complete_tags(spec) == ["step-00000004"]


def test_a_resumed_engine_goes_on_as_an_undisturbed_one(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slice_files, "FILE_BYTES", 8)  # each parameter gets a file
    save(SmallEngine().train(3), spec, 3)
    files = list((checkpoint_dir(spec) / "step-00000003").glob("*.safetensors"))
    assert len(files) == 2
    engine = SmallEngine()
    checkpoints_of(engine, spec).resume()
    assert engine.train(2).numbers() == SmallEngine().train(5).numbers()


def test_an_engine_without_updates_is_saved_too(spec: RunSpec) -> None:
    """In float16 the first steps may be skipped, and then Adam has no moments yet."""
    save(SmallEngine(), spec, 3)
    engine = SmallEngine().train(2)
    assert checkpoints_of(engine, spec).resume() == Progress(3, 30)
    assert engine.numbers() == SmallEngine().numbers()


@pytest.mark.parametrize(("num_saved", "num_loaded"), [(1, 3), (2, 1), (2, 4), (4, 3)])
def test_other_numbers_of_ranks_read_the_same(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch, num_saved: int, num_loaded: int
) -> None:
    """Bits of each rank's states go to all, too. Under DeepSpeed: processes/test_checkpoints.py."""

    def of(number: int) -> RunSpec:
        topology = spec.topology.model_copy(update={"num_students": number})
        return spec.model_copy(update={"topology": topology})

    saving = use_ranks(monkeypatch, num_saved)
    saved = on_all_ranks(saving, lambda _: save(SmallEngine().train(3), of(num_saved), 3))
    assert saved == [None] * num_saved
    loading = use_ranks(monkeypatch, num_loaded)

    def load(_: int) -> list[float]:
        engine = SmallEngine()
        checkpoints_of(engine, of(num_loaded)).resume()
        return engine.numbers()

    assert on_all_ranks(loading, load) == [SmallEngine().train(3).numbers()] * num_loaded


class Kept:
    """A state that differs between ranks."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, states: Any) -> None:
        self.value = [state["value"] for state in states]


def test_states_come_back_by_rank_and_new_ones_keep_their_start(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    topology = spec.topology.model_copy(update={"num_students": 2})
    two = spec.model_copy(update={"topology": topology})
    comm = use_ranks(monkeypatch, 2)
    on_all_ranks(
        comm,
        lambda rank: checkpoints_of(SmallEngine(), two, kept=Kept(rank)).save(Progress(3, 30)),
    )
    comm = use_ranks(monkeypatch, 1)
    kept, new = Kept(None), Kept("start")
    checkpoints_of(SmallEngine(), spec, kept=kept, new=new).resume()
    assert kept.value == [0, 1]
    assert new.value == "start"


def test_a_rollback_takes_back_weights_and_what_goes_with_them(spec: RunSpec) -> None:
    saving = checkpoints_of(SmallEngine().train(3), spec, kept=Kept("sound"), other=Kept("sound"))
    saving.save(Progress(3, 30))
    present = Kept("exploded"), Kept("present")
    checkpoints = checkpoints_of(SmallEngine(), spec, other=present[1])
    checkpoints.keep_state("kept", present[0], goes_with_weights=True)
    assert checkpoints.restore_weights(before=4) == Progress(3, 30)
    assert [state.value for state in present] == [["sound"], "present"]


def test_a_rollback_takes_weights_from_before_a_step_and_no_states(spec: RunSpec) -> None:
    engine = SmallEngine().train(3)
    for step in (3, 4):
        save(engine, spec.model_copy(update={"checkpoint": CheckpointSpec(keep=5)}), step)
        engine.train(1)
    checkpoints = checkpoints_of(engine, spec, kept=Kept("present"))
    assert checkpoints.restore_weights(before=4) == Progress(3, 30)
    assert engine.global_steps == 5  # part of the states
    assert engine.numbers()[1:] == SmallEngine().train(3).numbers()[1:]
    # Nothing goes back to the weights that were given up, nor keeps them instead of sound ones.
    assert complete_tags(spec) == ["step-00000003"]
    assert (checkpoint_dir(spec) / "abandoned-step-00000004" / "manifest.json").is_file()
    assert checkpoints.restore_weights(before=3) is None
    assert complete_tags(spec) == ["step-00000003"]


def changed_facts(spec: RunSpec, **facts: Any) -> None:
    """Change what the manifest of the checkpoint after step 3 says."""
    path = checkpoint_dir(spec) / "step-00000003" / "manifest.json"
    content = json.loads(path.read_text())
    content["facts"] |= facts
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            {"layout": 1},
            r"layout 1 .*reads layout 2 only.\n.*dskd checkpoint convert .*spec.toml --tag step-",
        ),
        ({"layout": 3}, "layout 3, and this version reads layout 2 only"),
        ({"init": "another"}, "started from a student with fingerprint another, but this"),
    ],
)
def test_another_layout_or_student_is_refused(
    spec: RunSpec, facts: dict[str, Any], message: str
) -> None:
    save(SmallEngine(), spec, 3)
    changed_facts(spec, **facts)
    with pytest.raises(InputError, match=message):
        checkpoints_of(SmallEngine(), spec).resume()


@pytest.mark.parametrize("reader", ["senses", "term"])
def test_a_dictionary_that_was_replaced_is_refused(
    spec: RunSpec, tmp_path: Path, reader: str
) -> None:
    """Checkpoints of before do not say which dictionary it was; without senses it does not matter.

    It is that of [senses], or that of one of [[loss.terms]].
    """
    folder = tmp_path / "dictionary"
    read = spec.senses.model_copy(update={"dictionary": str(folder)})
    loss = spec.loss.model_copy(update={"sense_weight": 0.5})
    if reader == "term":
        read = spec.senses
        term = LayerTermSpec(kind="mse", student_layer=1, weight=1.0, dictionary=str(folder))
        loss = spec.loss.model_copy(update={"sense_weight": 0.0, "terms": (term,)})
    spec = spec.model_copy(update={"senses": read, "loss": loss})
    dictionary_in(folder)

    def checkpoints(spec: RunSpec) -> Checkpoints:
        init: Any = SimpleNamespace(fingerprint=INIT)
        skips: Any = Skips(spec.train)
        engine: Any = SmallEngine()
        return open_checkpoints(spec, engine, init, blocks=skips, skips=skips)

    checkpoints(spec).save(Progress(3, 30))
    assert checkpoints(spec).resume() == Progress(3, 30)
    dictionary_in(folder, seed=1)
    with pytest.raises(
        InputError,
        match=rf"{folder}: this dictionary is another one than that of .*step-00000003\.\n  put the"
        " old one back, or set another run_dir",
    ):
        checkpoints(spec).resume()
    without = spec.model_copy(
        update={"loss": spec.loss.model_copy(update={"sense_weight": 0.0, "terms": ()})}
    )
    assert checkpoints(without).resume() == Progress(3, 30)
    dictionary_in(folder)
    assert checkpoints(spec).resume() == Progress(3, 30)
    changed_facts(spec, dictionaries={})
    dictionary_in(folder, seed=1)
    assert checkpoints(spec).resume() == Progress(3, 30)


def test_other_parameters_are_refused_by_name(spec: RunSpec) -> None:
    save(SmallEngine(), spec, 3)
    engine = SmallEngine()
    engine.module = torch.nn.Linear(4, 2)
    engine.optimizer = torch.optim.AdamW(engine.module.parameters())
    with pytest.raises(InputError, match=r"weight has 8 elements in this run, and .* has 6"):
        checkpoints_of(engine, spec).resume()

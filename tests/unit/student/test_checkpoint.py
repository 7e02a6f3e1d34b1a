"""Checkpoints: written once, complete or ignored, read safely; which runs may be resumed."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dskd_ds.errors import InputError, SaveError
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student import checkpoint
from dskd_ds.student.export import WHOLE_FILE, read_weights
from tests.unit.student.ranks import on_all_ranks, use_ranks


class FakeEngine:
    """Writes one file where DeepSpeed writes its own, and counts the calls."""

    num_saved = 0

    def __init__(self) -> None:
        self.checkpoint_engine = SimpleNamespace(save=lambda text, path: path.write_text(text))

    def _copy_recovery_script(self, folder: Path) -> None:
        assert folder.is_dir()

    def save_checkpoint(
        self, folder: str, tag: str, client_state: dict[str, int], save_latest: bool
    ) -> None:
        assert not save_latest
        (Path(folder) / tag).mkdir(parents=True)
        self.checkpoint_engine.save(str(client_state["step"]), Path(folder) / tag / "weights")
        self._copy_recovery_script(Path(folder) / tag)
        self.num_saved += 1


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunSpec:
    """The spec of a run with one student, without torch.distributed."""
    use_ranks(monkeypatch, 1)
    return load_spec(
        "ds_configs/runs/quickstart.toml",
        [f"run_dir={tmp_path}", "checkpoint.keep=1", "topology.num_students=1"],
    )


def test_a_complete_checkpoint_is_not_written_again(spec: RunSpec) -> None:
    engine = FakeEngine()
    interrupted = checkpoint.checkpoint_dir(spec) / "step-00000003"
    interrupted.mkdir(parents=True)
    for _ in range(2):
        checkpoint.save(engine, spec, 3, 30)
        assert checkpoint.complete_tags(spec) == ["step-00000003"]
    assert engine.num_saved == 1
    checkpoint.save(engine, spec, 4, 40)
    assert checkpoint.complete_tags(spec) == ["step-00000004"]  # keep = 1
    assert [path.name for path in checkpoint.checkpoint_dir(spec).iterdir()] == ["step-00000004"]


def test_rank_0_decides_for_all_ranks(spec: RunSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that sees the manifest late must not wait alone in a collective call."""
    checkpoint.save(FakeEngine(), spec, 3, 30)
    comm = use_ranks(monkeypatch, 2)
    late = spec.model_copy(update={"run_dir": f"{spec.run_dir}/nothing-yet"})
    engine = FakeEngine()
    results = on_all_ranks(comm, lambda rank: checkpoint.save(engine, (spec, late)[rank], 3, 30))
    assert results == [None, None]
    assert engine.num_saved == 0


def test_a_half_deleted_checkpoint_is_not_complete(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(FakeEngine(), spec, 3, 30)

    def fail(path: Path) -> None:
        raise OSError(f"cannot delete {path}")

    monkeypatch.setattr(shutil, "rmtree", fail)
    checkpoint.save(FakeEngine(), spec, 4, 40)
    assert "this old checkpoint cannot be deleted: cannot delete" in capsys.readouterr().err
    assert checkpoint.complete_tags(spec) == ["step-00000004"]


@pytest.mark.parametrize("where", ["weights", "script", "manifest"])
def test_a_full_disk_leaves_the_earlier_checkpoint(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    engine = FakeEngine()
    checkpoint.save(engine, spec, 3, 30)
    with monkeypatch.context() as patch:
        if where == "weights":
            patch.setattr(engine.checkpoint_engine, "save", fail)
        elif where == "script":
            patch.setattr(engine, "_copy_recovery_script", fail, raising=False)
        else:
            patch.setattr(checkpoint, "store_manifest", fail)
        with pytest.raises(SaveError, match=r"step-00000004: this checkpoint cannot .* No space"):
            checkpoint.save(engine, spec, 4, 40)
    assert [path.name for path in checkpoint.checkpoint_dir(spec).iterdir()] == ["step-00000003"]
    checkpoint.save(engine, spec, 4, 40)
    assert checkpoint.complete_tags(spec) == ["step-00000004"]


def test_the_file_with_the_whole_model_is_read_without_unpickling(tmp_path: Path) -> None:
    weight = torch.randn(3)
    torch.save(
        {
            "module": OrderedDict(weight=weight),
            "shapes": [OrderedDict(weight=weight.shape)],
            "names": {"a"},
        },
        tmp_path / WHOLE_FILE,
    )
    assert torch.equal(read_weights(tmp_path)["weight"], weight)
    torch.save({"module": {"weight": weight}, "more": Path("/")}, tmp_path / WHOLE_FILE)
    with pytest.raises(
        InputError, match="the file holds more than tensors and plain values, so it is not read"
    ):
        read_weights(tmp_path)

"""Resume and export: damaged checkpoints are passed over by all ranks, planted files refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from dskd_ds.errors import InputError, OtherRankError, SaveError
from dskd_ds.models.named import RunModels
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student import checkpoint, checkpoint_files
from dskd_ds.student.export import export_checkpoint
from tests.unit.student.ranks import ThreadComm, on_all_ranks, use_ranks

NUM_RANKS = 2


class FakeEngine:
    """Writes and reads files with DeepSpeed's names for ZeRO stage 3; one per rank."""

    def __init__(self, rank: int) -> None:
        self._name = f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt"
        self._is_first = rank == 0
        self.loaded: str | None = None
        # DeepSpeed writes through these; `Writes` replaces them during a save.
        self.checkpoint_engine = SimpleNamespace(save=None)
        self._copy_recovery_script = None

    def save_checkpoint(
        self, folder: str, tag: str, client_state: dict[str, int], save_latest: bool
    ) -> None:
        assert not save_latest
        (Path(folder) / tag).mkdir(parents=True, exist_ok=True)
        (Path(folder) / tag / self._name).write_text(f"weights {client_state['step']}")
        if self._is_first:
            (Path(folder) / tag / "shared").write_text("for all ranks")

    def load_checkpoint(self, folder: str, tag: str) -> tuple[str, None]:
        self.loaded = (Path(folder) / tag / self._name).read_text()
        return tag, None


@pytest.fixture
def comm(monkeypatch: pytest.MonkeyPatch) -> ThreadComm:
    return use_ranks(monkeypatch, NUM_RANKS)


@pytest.fixture
def spec(tmp_path: Path, comm: ThreadComm) -> RunSpec:
    """The spec of a run of two students with checkpoints after steps 3 and 6."""
    spec = load_spec(
        "ds_configs/runs/quickstart.toml",
        [f"run_dir={tmp_path}", "checkpoint.keep=2", f"topology.num_students={NUM_RANKS}"],
    )

    def save(rank: int) -> None:
        for step in (3, 6):
            checkpoint.save(FakeEngine(rank), spec, step, 10 * step)

    assert on_all_ranks(comm, save) == [None] * NUM_RANKS
    return spec


def tag_folder(spec: RunSpec, step: int) -> Path:
    """Return the folder of the checkpoint after a step."""
    return checkpoint.checkpoint_dir(spec) / f"step-{step:08d}"


def resume(spec: RunSpec, comm: ThreadComm) -> list[tuple[int, int] | Exception]:
    """Return what each rank resumed, or the error that it raised."""
    return on_all_ranks(comm, lambda rank: checkpoint.resume(FakeEngine(rank), spec))


def test_each_rank_hashes_its_own_files(
    spec: RunSpec, comm: ThreadComm, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[int, str]] = []
    file_problem = checkpoint_files.file_problem

    def record(path: Path, expected: checkpoint_files.FileEntry) -> str | None:
        read.append((comm.get_rank(), path.name))
        return file_problem(path, expected)

    monkeypatch.setattr(checkpoint_files, "file_problem", record)
    assert resume(spec, comm) == [(6, 60)] * NUM_RANKS
    assert sorted(read) == [
        (0, "shared"),
        (0, "zero_pp_rank_0_mp_rank_00_model_states.pt"),
        (1, "zero_pp_rank_1_mp_rank_00_model_states.pt"),
    ]


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("mp_rank_00_model_states.pt", 0),
        ("zero_pp_rank_3_mp_rank_00_model_states.pt", 3),
        ("bf16_zero_pp_rank_12_mp_rank_00_optim_states.pt", 12),
        ("offloaded_tensors/rank007/optimizer/a.swp", 7),
        ("zero_pp_rank_99_mp_rank_00_optim_states.pt", 3),  # somebody hashes it
    ],
)
def test_names_of_files_tell_their_rank(name: str, rank: int) -> None:
    assert checkpoint_files.owner_rank(name, num_ranks=16) == rank


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest", "name"])
@pytest.mark.parametrize("rank", [0, 1])
def test_all_ranks_fall_back_to_the_newest_whole_one(
    spec: RunSpec,
    comm: ThreadComm,
    capsys: pytest.CaptureFixture[str],
    damage: str,
    rank: int,
) -> None:
    path = tag_folder(spec, 6) / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt"
    manifest = tag_folder(spec, 6) / "manifest.json"
    if damage == "truncate":
        path.write_text("weigh")
    elif damage == "flip":
        path.write_text("weights 7")
    elif damage == "remove":
        path.unlink()
    elif damage == "manifest":
        manifest.write_text(manifest.read_text()[:-9])
    else:
        content = json.loads(manifest.read_text())
        content["files"]["../../escape"] = content["files"].pop(path.name)
        manifest.write_text(json.dumps(content))
    assert resume(spec, comm) == [(3, 30)] * NUM_RANKS
    warning = capsys.readouterr().err
    named = manifest if damage in ("manifest", "name") else path
    assert warning.count(str(named)) == 1
    assert "step-00000006 is damaged, so the run continues from step-00000003" in warning
    # The run will save at step 6 again, and a second resume finds nothing to warn about.
    assert checkpoint.complete_tags(spec) == ["step-00000003"]
    assert (checkpoint.checkpoint_dir(spec) / "damaged-step-00000006").is_dir()
    assert resume(spec, comm) == [(3, 30)] * NUM_RANKS
    assert capsys.readouterr().err == ""


def test_a_run_never_starts_again_because_all_checkpoints_are_damaged(
    spec: RunSpec, comm: ThreadComm
) -> None:
    for step in (3, 6):
        (tag_folder(spec, step) / "shared").unlink()
    for _ in range(2):  # nothing was renamed the first time
        first, second = resume(spec, comm)
        assert isinstance(first, InputError)
        assert "step-00000003/shared: it is missing" in str(first)
        assert "no checkpoint in" in str(first)
        assert isinstance(second, OtherRankError)
        assert second.exit_code == first.exit_code


@pytest.mark.parametrize(
    "name",
    [
        "mp_rank_-1_model_states.pt",
        "zero_pp_rank_0_mp_rank_-1_model_states.pt",
        "below/anything",
    ],
)
def test_a_planted_file_is_refused_by_name(spec: RunSpec, comm: ThreadComm, name: str) -> None:
    planted = tag_folder(spec, 6) / name
    planted.parent.mkdir(exist_ok=True)
    planted.write_text("a pickle")
    first, second = resume(spec, comm)
    assert isinstance(first, InputError)
    assert f"{planted}: not listed in" in str(first)
    assert isinstance(second, OtherRankError)
    with pytest.raises(InputError, match=f"{name}: not listed in"):
        export_checkpoint(spec, RunModels.of(spec))


def test_another_number_of_students_is_refused_before_anything_is_hashed(
    spec: RunSpec, comm: ThreadComm, monkeypatch: pytest.MonkeyPatch
) -> None:
    topology = spec.topology.model_copy(update={"num_students": 4})
    monkeypatch.setattr(checkpoint_files, "file_problem", None)
    first, second = resume(spec.model_copy(update={"topology": topology}), comm)
    assert isinstance(first, InputError)
    assert "it was saved by 2 students" in str(first)
    assert isinstance(second, OtherRankError)


def test_all_ranks_stop_if_one_cannot_read_what_it_saved(
    spec: RunSpec, comm: ThreadComm, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe_file = checkpoint_files.describe_file

    def fail_on_rank_1(path: Path) -> checkpoint_files.FileEntry:
        if comm.get_rank() == 1:
            raise OSError(5, "Input/output error", str(path))
        return describe_file(path)

    monkeypatch.setattr(checkpoint_files, "describe_file", fail_on_rank_1)
    errors = on_all_ranks(comm, lambda rank: checkpoint.save(FakeEngine(rank), spec, 9, 90))
    assert all(isinstance(error, SaveError) for error in errors)
    assert checkpoint.complete_tags(spec) == ["step-00000003", "step-00000006"]

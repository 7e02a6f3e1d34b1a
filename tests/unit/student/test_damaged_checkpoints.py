"""Resume and export: damaged checkpoints are passed over by all ranks, planted files refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dskd_ds.errors import InputError, OtherRankError, SaveError
from dskd_ds.models.named import RunModels
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.checkpoint import files as checkpoint_files
from dskd_ds.student.checkpoint import saving
from dskd_ds.student.checkpoint.folders import checkpoint_dir, complete_tags
from dskd_ds.student.checkpoint.store import Progress
from dskd_ds.student.export import export_checkpoint
from tests.unit.student.ranks import ThreadComm, on_all_ranks, use_ranks
from tests.unit.student.small_engine import SmallEngine, checkpoints_of
from tests.unit.student.small_engine import save as save_checkpoint

NUM_RANKS = 2


@pytest.fixture
def comm(monkeypatch: pytest.MonkeyPatch) -> ThreadComm:
    return use_ranks(monkeypatch, NUM_RANKS)


@pytest.fixture
def spec(tmp_path: Path, comm: ThreadComm) -> RunSpec:
    """The spec of a run of two students with checkpoints after steps 3 and 6."""
    spec = load_spec(
        "tests/base_run.toml",
        [f"run_dir={tmp_path}", "checkpoint.keep=2", f"topology.num_students={NUM_RANKS}"],
    )

    def save(_: int) -> None:
        for step in (3, 6):
            save_checkpoint(SmallEngine().train(step), spec, step)

    assert on_all_ranks(comm, save) == [None] * NUM_RANKS
    return spec


def tag_folder(spec: RunSpec, step: int) -> Path:
    """Return the folder of the checkpoint after a step."""
    return checkpoint_dir(spec) / f"step-{step:08d}"


def resume(spec: RunSpec, comm: ThreadComm) -> list[Progress | Exception]:
    """Return what each rank resumed, or the error that it raised."""
    return on_all_ranks(comm, lambda _: checkpoints_of(SmallEngine(), spec).resume())


def test_each_rank_hashes_its_own_files(
    spec: RunSpec, comm: ThreadComm, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[int, str]] = []
    file_problem = checkpoint_files.file_problem

    def record(path: Path, expected: checkpoint_files.FileEntry) -> str | None:
        read.append((comm.get_rank(), path.name))
        return file_problem(path, expected)

    monkeypatch.setattr(checkpoint_files, "file_problem", record)
    assert resume(spec, comm) == [Progress(6, 60)] * NUM_RANKS
    assert sorted(read) == [
        (rank, f"student-0000{rank}{ending}")
        for rank in range(NUM_RANKS)
        for ending in ("-000.safetensors", ".json")
    ]


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("student-00003-000.safetensors", 3),
        ("student-00012.json", 12),
        ("student-00099-001.safetensors", 3),  # of more ranks than there are now
        ("anything else", 0),
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
    path = tag_folder(spec, 6) / f"student-{rank:05d}-000.safetensors"
    manifest = tag_folder(spec, 6) / "manifest.json"
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "flip":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "remove":
        path.unlink()
    elif damage == "manifest":
        manifest.write_text(manifest.read_text()[:-9])
    else:
        entries = json.loads(manifest.read_text())
        entries["files"]["../../escape"] = entries["files"].pop(path.name)
        manifest.write_text(json.dumps(entries))
    assert resume(spec, comm) == [Progress(3, 30)] * NUM_RANKS
    warning = capsys.readouterr().err
    named = manifest if damage in ("manifest", "name") else path
    assert warning.count(str(named)) == 1
    assert "step-00000006 is damaged, so the run continues from step-00000003" in warning
    # The run will save at step 6 again, and a second resume finds nothing to warn about.
    assert complete_tags(spec) == ["step-00000003"]
    assert (checkpoint_dir(spec) / "damaged-step-00000006").is_dir()
    assert resume(spec, comm) == [Progress(3, 30)] * NUM_RANKS
    assert capsys.readouterr().err == ""


def test_a_run_never_starts_again_because_all_checkpoints_are_damaged(
    spec: RunSpec, comm: ThreadComm
) -> None:
    for step in (3, 6):
        (tag_folder(spec, step) / "student-00001.json").unlink()
    for _ in range(2):  # nothing was renamed the first time
        first, second = resume(spec, comm)
        assert isinstance(first, InputError)
        assert "step-00000003/student-00001.json: it is missing" in str(first)
        assert "no checkpoint in" in str(first)
        assert isinstance(second, OtherRankError)
        assert second.exit_code == first.exit_code


@pytest.mark.parametrize(
    "name",
    [
        "student-00002-000.safetensors",
        "mp_rank_00_model_states.pt",
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


def test_all_ranks_stop_if_one_cannot_read_what_it_saved(
    spec: RunSpec, comm: ThreadComm, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe_file = saving.describe_file

    def fail_on_rank_1(path: Path) -> checkpoint_files.FileEntry:
        if comm.get_rank() == 1:
            raise OSError(5, "Input/output error", str(path))
        return describe_file(path)

    monkeypatch.setattr(saving, "describe_file", fail_on_rank_1)
    errors = on_all_ranks(comm, lambda _: save_checkpoint(SmallEngine(), spec, 9))
    assert all(isinstance(error, SaveError) for error in errors)
    assert complete_tags(spec) == ["step-00000003", "step-00000006"]

"""`dskd cache`: lists teachers, names damage, removes the oldest, says hit rates."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dskd_ds.commands.cli import main
from dskd_ds.models.named import RunModels
from dskd_ds.models.reply_identity import reply_fingerprint
from dskd_ds.signal_cache.folder import (
    TEACHER_FILE,
    kept_fingerprint,
    note_teacher,
    open_cache,
    teacher_folder,
)
from dskd_ds.signal_cache.part_rows import PartRows, pack_rows
from dskd_ds.signal_cache.room import segment_files
from dskd_ds.spec import load_spec
from tests.conftest import TinyWorld

NUM_RECORDS = 12


@pytest.fixture
def overrides(tiny: TinyWorld, tmp_path: Path) -> list[str]:
    """A spec whose cache holds its own teacher's signal, and another's."""
    chosen = [
        f"teacher.cache_dir={tmp_path / 'kept'}",
        "teacher.source=cache_or_live",
        f"run_dir={tmp_path / 'run'}",
    ]
    spec = load_spec(tiny.spec_file, chosen)
    own = reply_fingerprint(spec, RunModels.of(spec))
    for fingerprint in (own, "another-teacher"):
        note_teacher(spec.teacher, fingerprint)
        store = open_cache(spec.teacher, fingerprint).store
        for number in range(NUM_RECORDS):
            hidden = np.full((30, 64), number, np.uint8)
            arrays = {"hidden": hidden, "hidden_scales": np.zeros((30, 0), np.uint16)}
            rows = PartRows("hidden", np.arange(30), arrays)
            store.put(number.to_bytes(16, "big"), pack_rows(rows))
        store.close()
    return [argument for override in chosen for argument in ("--set", override)]


def test_it_lists_teachers_and_the_hit_rate(
    tiny: TinyWorld, tmp_path: Path, overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    records = [{"step": 1, "cache_hit_rate": 0.5}, {"step": 2, "cache_hit_rate": 1.0}]
    lines = "".join(f"{json.dumps(record)}\n" for record in records)
    (tmp_path / "run" / "metrics.jsonl").write_text(lines)
    assert main(["cache", str(tiny.spec_file), *overrides, "--verify"]) == 0
    output = capsys.readouterr().out
    own = next(line for line in output.splitlines() if line.startswith("*"))
    assert str(tiny.folder / "teacher") in own
    assert f" {NUM_RECORDS} " in own
    assert "another-teacher" in output
    assert "75.0% of the signal of 2 recorded steps, 100.0% of the last" in output
    assert f"{2 * NUM_RECORDS} records are whole, 0 places are damaged" in output


def test_damage_is_named(
    tiny: TinyWorld, tmp_path: Path, overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    segment = segment_files(tmp_path / "kept")[0].path
    content = bytearray(segment.read_bytes())
    content[60] ^= 1
    segment.write_bytes(bytes(content) + b"half a record")
    assert main(["cache", str(tiny.spec_file), *overrides, "--verify"]) == 1
    captured = capsys.readouterr()
    assert f"{segment}, byte 0: its digest differs" in captured.err
    assert "not whole" in captured.err
    assert f"{2 * NUM_RECORDS - 1} records are whole, 2 places are damaged" in captured.out


def test_it_prunes(
    tiny: TinyWorld, tmp_path: Path, overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(segment_files(tmp_path / "kept")) == 2
    assert main(["cache", str(tiny.spec_file), *overrides, "--remove-others"]) == 0
    assert "another-teacher" not in capsys.readouterr().out
    (file,) = segment_files(tmp_path / "kept")
    prune = ["--prune", str(file.num_bytes)]
    assert main(["cache", str(tiny.spec_file), *overrides, *prune]) == 0
    assert segment_files(tmp_path / "kept")
    assert main(["cache", str(tiny.spec_file), *overrides, "--prune", "1"]) == 0
    assert not segment_files(tmp_path / "kept")


def test_signal_of_the_own_weights_from_another_device_stays(
    tiny: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [
        f"teacher.cache_dir={tmp_path / 'kept'}",
        "teacher.source=cache",
        "topology.num_teachers=0",
    ]
    spec = load_spec(tiny.spec_file, chosen)
    models = RunModels.of(spec)
    filled_there = reply_fingerprint(spec, models, device_type="cuda")
    for fingerprint in (filled_there, "another-teacher"):
        note_teacher(spec.teacher, fingerprint)
        store = open_cache(spec.teacher, fingerprint).store
        store.put(bytes(16), b"payload")
        store.close()
    argv = [argument for override in chosen for argument in ("--set", override)]
    assert main(["cache", str(tiny.spec_file), *argv, "--remove-others"]) == 0
    assert [file.path.parent for file in segment_files(tmp_path / "kept")] == [
        teacher_folder(tmp_path / "kept", filled_there)
    ]
    output = capsys.readouterr().out
    assert any(line.startswith("*") and filled_there in line for line in output.splitlines())


@pytest.mark.parametrize(
    ("kept", "dtype", "is_found"),
    [
        (["w-bfloat16-cuda-sdpa-50-rows128"], "auto", True),
        (["w-bfloat16-cuda-sdpa-50-rows128"], "float32", False),
        (["w-float32-cuda-eager-50-rows128"], "float32", True),
        (["w-bfloat16-cuda-sdpa-49-rows128"], "auto", False),
        (["x-float32-cuda-sdpa-50-rows128"], "auto", False),
        (["w-bfloat16-cuda-sdpa-50-rows128", "w-float16-cuda-sdpa-50-rows128"], "auto", False),
        (["w-bfloat16-cuda-sdpa-50-rows128", "w-float32-cpu-sdpa-50-rows128"], "auto", True),
    ],
)
def test_a_cache_that_another_device_filled_is_found(
    tmp_path: Path, kept: list[str], dtype: str, is_found: bool
) -> None:
    """Only if it is the only one of these weights, tokens and an allowed number format."""
    own = "w-float32-cpu-sdpa-50-rows128"
    spec = load_spec(
        "tests/base_run.toml",
        [f"teacher.cache_dir={tmp_path}", f"teacher.dtype={dtype}"],
    ).teacher
    for fingerprint in kept:
        note_teacher(spec, fingerprint)
        store = open_cache(spec, fingerprint).store
        store.put(bytes(16), b"payload")
        store.close()
    found = kept_fingerprint(spec, own, "w")
    expected = own if own in kept else kept[0]
    assert found == (expected if is_found else own)


def test_ranks_that_begin_together_all_note_the_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another rank does all of it before the first one renames its file."""
    spec = load_spec("tests/base_run.toml", [f"teacher.cache_dir={tmp_path}"]).teacher
    replace = Path.replace

    def replace_after_another_rank(self: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "replace", replace)
        note_teacher(spec, "f")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replace_after_another_rank)
    note_teacher(spec, "f")
    folder = teacher_folder(tmp_path, "f")
    assert [path.name for path in folder.iterdir()] == [TEACHER_FILE]
    assert json.loads((folder / TEACHER_FILE).read_text())["fingerprint"] == "f"

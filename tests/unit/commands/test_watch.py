"""Which checkpoints `dskd eval --watch` takes, and how it holds one that is deleted meanwhile."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from dskd_ds.commands import cli, watch_checkpoints
from dskd_ds.commands.watch_checkpoints import SCORES_FILE, hold, read_scores
from dskd_ds.files.manifest import MANIFEST_FILE
from dskd_ds.spec import load_spec
from tests.conftest import TinyWorld


def checkpoint(folder: Path) -> Path:
    (folder / "rank-0").mkdir(parents=True)
    (folder / "rank-0" / "weights").write_text("weights")
    (folder / MANIFEST_FILE).write_text("{}")
    return folder


def test_held_files_outlive_the_checkpoint(tmp_path: Path) -> None:
    source, held = checkpoint(tmp_path / "step-1"), tmp_path / "held" / "step-1"
    assert hold(source, held)
    assert (held / "rank-0" / "weights").samefile(source / "rank-0" / "weights")  # no copy
    shutil.rmtree(source)
    assert (held / "rank-0" / "weights").read_text() == "weights"


def test_a_checkpoint_that_is_being_deleted_is_not_held(tmp_path: Path) -> None:
    source, held = checkpoint(tmp_path / "step-1"), tmp_path / "held" / "step-1"
    (source / MANIFEST_FILE).unlink()  # the manifest goes first
    assert not hold(source, held)
    shutil.rmtree(source)
    assert not hold(source, held)
    assert not held.exists()


def test_a_checkpoint_that_cannot_be_copied_is_not_called_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, held = checkpoint(tmp_path / "step-1"), tmp_path / "held" / "step-1"

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", fail)
    monkeypatch.setattr(shutil, "copy2", fail)
    with pytest.raises(OSError, match="No space left on device"):
        hold(source, held)
    assert not held.exists()


def test_a_failed_copy_counts_as_a_failure(
    tiny: TinyWorld,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`dskd eval --watch` then ends with an error, and does not try it for ever."""
    spec = load_spec(tiny.spec_file, [f"run_dir={tmp_path}"])
    checkpoint(tmp_path / "checkpoints" / "step-00000001")

    def fail(*_: object) -> bool:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(watch_checkpoints, "hold", fail)
    watcher = watch_checkpoints.Watcher(tmp_path, ())
    assert watcher.score_new_ones(spec) == 1
    assert (len(watcher.failed), len(watcher.removed)) == (1, 0)
    assert "No space left on device" in capsys.readouterr().out


def test_a_line_that_was_cut_short_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "evaluation" / SCORES_FILE
    path.parent.mkdir()
    line = json.dumps({"step": 3, "identity": "step-3 1", "scores": {"kl": 0.5}})
    path.write_text(f"{line}\n{line[:20]}")
    assert [found["step"] for found in read_scores(tmp_path)] == [3]
    assert read_scores(tmp_path / "nothing") == []


def test_a_checkpoint_is_scored_once_for_each_kind_of_scores(
    tiny: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held-out text and questions are no substitute for each other."""
    spec = load_spec(tiny.spec_file, [f"run_dir={tmp_path}"])
    checkpoint(tmp_path / "checkpoints" / "step-00000001")
    commands: list[list[str]] = []

    def score(command: list[str]) -> int:
        commands.append(command)
        held = Path(command[command.index("--checkpoint") + 1])
        (held / "scores.json").write_text(json.dumps({"kl": 0.5}))
        return 0

    monkeypatch.setattr(watch_checkpoints, "_run_to_end", score)
    kinds = [(), ("--tasks", "wic"), ("--tasks", "wic", "--limit", "9")]
    for task_argv in kinds:
        watcher = watch_checkpoints.Watcher(tmp_path, task_argv)
        assert [watcher.score_new_ones(spec), watcher.score_new_ones(spec)] == [1, 0]
        assert len(watcher.scored()) == 1
    for task_argv in reversed(kinds):  # a later call goes by the lines of the file
        assert watch_checkpoints.Watcher(tmp_path, task_argv).score_new_ones(spec) == 0
    assert [command[-2:] for command in commands[1:]] == [["--tasks", "wic"], ["--limit", "9"]]


def test_a_line_of_an_earlier_version_is_of_heldout_text(tmp_path: Path) -> None:
    path = tmp_path / "evaluation" / SCORES_FILE
    path.parent.mkdir()
    path.write_text(json.dumps({"step": 3, "identity": "step-3 1", "scores": {"kl": 0.5}}))
    assert len(watch_checkpoints.Watcher(tmp_path, ()).scored()) == 1
    assert watch_checkpoints.Watcher(tmp_path, ("--tasks", "wic")).scored() == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["spec.toml", "--watch", "run"], "leave out the spec"),
        (["--watch", "nothing/here"], "there is no such run directory"),
    ],
)
def test_a_wrong_watch_is_refused(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["eval", *argv]) == 2
    assert message in capsys.readouterr().err


def test_once_needs_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoints").mkdir()
    assert cli.main(["eval", "--watch", str(tmp_path), "--once"]) == 2
    assert "no run was started here" in capsys.readouterr().err

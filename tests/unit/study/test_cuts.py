"""Runs of a study that cut the same student share the cut's files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dskd_ds.student.depth import INIT_FOLDER
from dskd_ds.study.cuts import offer_cut, take_shared_cut
from dskd_ds.study.runs import study_runs
from dskd_ds.study.spec import load_study
from tests.unit.study.test_study import study_file

WEIGHTS = "model.safetensors"


def share(tmp_path: Path) -> tuple[Path, Path]:
    """Cut in the first run of a study, and take the cut in the second; returns their folders."""
    first, second, _ = study_runs(load_study(study_file(tmp_path, "[arms.kd]\n")))
    own, other = (Path(run.spec.run_dir) / INIT_FOLDER for run in (first, second))
    own.mkdir(parents=True)
    (own / WEIGHTS).write_text("weights")
    offer_cut(tmp_path / "study", first)
    take_shared_cut(tmp_path / "study", second)
    return own, other


def test_a_cut_is_linked(tmp_path: Path) -> None:
    own, other = share(tmp_path)
    assert (other / WEIGHTS).samefile(own / WEIGHTS)


def test_a_cut_is_copied_where_the_file_system_has_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    own, other = share(tmp_path)
    assert (other / WEIGHTS).read_text() == "weights"
    assert not (other / WEIGHTS).samefile(own / WEIGHTS)

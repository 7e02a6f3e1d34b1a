"""What a study does about stages that fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_ds.commands import cli
from dskd_ds.study.runs import baseline_run, study_runs
from dskd_ds.study.spec import load_study
from dskd_ds.study.stages import StageError, Stages
from tests.unit.study.test_study import finish, study_file

COSTED = """
baselines = true
[cost]
arm = "dskd"
[arms.kd]
"loss.sense_weight" = 0.0
[arms.dskd]
"""


def test_a_failed_cost_bench_costs_its_own_table_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = study_file(tmp_path, COSTED)
    study = load_study(path)
    for run in (baseline_run(study), *study_runs(study)):
        finish(run, tmp_path / "study", shift=0.0)

    def fail(_self: Stages, log_name: str, *_argv: str) -> float:
        raise StageError(f"{log_name}: dskd bench failed")

    monkeypatch.setattr(Stages, "call", fail)
    assert cli.main(["sweep", str(path)]) == 1
    shown = capsys.readouterr()
    assert "6 of 6 runs are done" in shown.out
    assert shown.err.endswith("cost: dskd bench failed\n")
    assert (tmp_path / "study" / "compare.html").is_file()

"""Results of a study that was changed since, or that an earlier version wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dskd_ds.errors import InputError
from dskd_ds.study.results import read_result, result_path
from dskd_ds.study.runs import Run, study_runs
from dskd_ds.study.spec import StudySpec, load_study
from tests.unit.study.test_study import ARMS, finish, study_file


def finished_run(tmp_path: Path) -> tuple[StudySpec, Run, dict[str, Any]]:
    """Return a study, one of its runs, and the result that this run left."""
    study = load_study(study_file(tmp_path, ARMS))
    run = study_runs(study)[0]
    finish(run, tmp_path / "study", shift=0.0)
    assert read_result(study, run) is not None
    return study, run, json.loads(result_path(tmp_path / "study", run).read_text())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda settings: settings["loss"].update(pull=0.5), r"\(loss.pull: 0.5 -> 1.0\)"),
        # As if the default had been another one.
        (lambda settings: settings["loss"].update(divergence="reverse"), "loss.divergence"),
        (lambda settings: settings["loss"].update(kappa=5), r"\[loss\] kappa"),
    ],
    ids=["value", "default", "unknown-key"],
)
def test_results_of_a_changed_study_do_not_mix(tmp_path: Path, change: Any, message: str) -> None:
    study, run, content = finished_run(tmp_path)
    change(content["settings"])
    result_path(tmp_path / "study", run).write_text(json.dumps(content))
    with pytest.raises(InputError, match="other settings than the study has now") as caught:
        read_result(study, run)
    assert re.search(message, str(caught.value))


def test_a_key_that_a_later_version_adds_counts_as_its_default(tmp_path: Path) -> None:
    study, run, content = finished_run(tmp_path)
    del content["settings"]["loss"]["shuffled_senses"]
    result_path(tmp_path / "study", run).write_text(json.dumps(content))
    assert read_result(study, run) is not None


def test_a_result_without_settings_is_from_an_earlier_version(tmp_path: Path) -> None:
    study, run, content = finished_run(tmp_path)
    content["digest"] = content.pop("settings") and "0123456789abcdef"
    result_path(tmp_path / "study", run).write_text(json.dumps(content))
    with pytest.raises(InputError, match="from an earlier version, which did not keep"):
        read_result(study, run)

"""What a study prepares: commands that run once, and are refused if they changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dskd_ds.errors import InputError
from dskd_ds.study.prepare import prepare
from dskd_ds.study.spec import StudySpec
from dskd_ds.study.stages import StageError, Stages

SCHEMA = ("schema", "--output", "{folder}/schema.json")


def study(tmp_path: Path, command: tuple[str, ...] = SCHEMA, **settings: Any) -> StudySpec:
    stage = {"name": "schema", "command": command, "makes": ("{folder}/schema.json",)} | settings
    tree = {
        "name": "trial",
        "base": "tests/base_run.toml",
        "folder": str(tmp_path),
        "seeds": (0,),
        "arms": {"a": {}},
        "prepare": (stage,),
    }
    return StudySpec.model_validate(tree)


def test_a_command_runs_once(tmp_path: Path) -> None:
    prepare(Stages(study(tmp_path)))
    made = tmp_path / "schema.json"
    assert json.loads(made.read_text())["title"] == "dskd run spec"
    made.write_text("kept")
    prepare(Stages(study(tmp_path)))
    assert made.read_text() == "kept"


def test_a_changed_command_is_refused(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text("made before")
    prepare(Stages(study(tmp_path)))
    with pytest.raises(InputError, match="run with other arguments than the study has now"):
        prepare(Stages(study(tmp_path, command=("init", "--list"))))


def test_a_command_must_make_its_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"did not make .*schema.json"):
        prepare(Stages(study(tmp_path, command=("schema",))))


def test_a_command_that_fails_names_its_log(tmp_path: Path) -> None:
    command = ("data", "questions", "nothing.toml", "--output", "{folder}")
    with pytest.raises(StageError, match=r"exit code 2: see .*prepare-schema.log"):
        prepare(Stages(study(tmp_path, command=command)))
    assert "no such file" in (tmp_path / "logs" / "prepare-schema.log").read_text()

"""The shipped files are found from any folder, and a wrong name suggests only files of its kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dskd_ds.errors import InputError
from dskd_ds.spec import load_spec, shipped
from dskd_ds.spec.shipped import (
    DEEPSPEED_CONFIGS,
    RUN_SPECS,
    STUDIES,
    described_files,
    is_study,
    shipped_file,
    shipped_files,
)
from dskd_ds.student.ds_config import read_deepspeed_json

QUICKSTART = "ds_configs/runs/quickstart.toml"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, as the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def message_of(name: str) -> str:
    with pytest.raises(InputError) as error:
        load_spec(name)
    return str(error.value)


def test_all_files_of_the_folder_are_listed_with_a_description() -> None:
    specs = {
        str(path) for name in ("runs", "paper") for path in Path("ds_configs", name).glob("*.toml")
    }
    studies = {path for path in specs if is_study(Path(path))}
    configs = {str(path) for path in Path("ds_configs").glob("zero*.json")}
    assert set(shipped_files(RUN_SPECS)) == specs - studies
    assert studies < set(shipped_files(STUDIES))
    assert set(shipped_files(DEEPSPEED_CONFIGS)) == configs
    for kind in (RUN_SPECS, DEEPSPEED_CONFIGS):
        for name, description in described_files(kind).items():
            assert description.endswith("."), name
            assert len(description) > 20, name


def test_shipped_files_are_found_from_any_folder(elsewhere: Path) -> None:
    spec = load_spec(QUICKSTART)
    assert read_deepspeed_json(spec.deepspeed)["zero_optimization"]["stage"] == 3
    assert not list(elsewhere.iterdir())


def test_a_file_of_the_current_folder_comes_first(elsewhere: Path) -> None:
    own = elsewhere / "ds_configs" / "zero3.json"
    own.parent.mkdir()
    own.write_text(json.dumps({"zero_optimization": {"stage": 1}}))
    assert read_deepspeed_json("ds_configs/zero3.json")["zero_optimization"]["stage"] == 1


def test_the_folder_inside_of_an_installed_package_is_used(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = elsewhere / "site" / "dskd_ds"
    shutil.copytree(shipped.shipped_folder(), installed / "ds_configs")
    monkeypatch.setattr(shipped, "__file__", str(installed / "spec" / "shipped.py"))
    found = shipped_file(QUICKSTART, RUN_SPECS, "")
    assert found == installed / QUICKSTART


def test_a_near_miss_suggests_run_specs_only(elsewhere: Path) -> None:
    (elsewhere / "pyproject.toml").write_text('[project]\nname = "x"\n')
    (elsewhere / "broken.toml").write_text("name = ")
    (elsewhere / "mine.toml").write_text('name = "mine"\nrun_dir = "runs/mine"\n')
    assert "did you mean mine.toml?" in message_of("mime.toml")
    for name in ("pyprojct.toml", "brokn.toml"):
        assert "did you mean" not in message_of(name)
        assert f"use one that ships: {', '.join(shipped_files(RUN_SPECS))}." in (message_of(name))


def test_a_near_miss_of_a_shipped_name_suggests_it(elsewhere: Path) -> None:
    assert f"did you mean {QUICKSTART}?" in message_of("ds_configs/runs/quikstart.toml")
    assert f"did you mean {QUICKSTART}?" in message_of("quickstart.toml")
    (elsewhere / "folder.toml").mkdir()
    assert "folder.toml: this is a folder." in message_of("folder.toml")


@pytest.mark.usefixtures("elsewhere")
def test_a_near_miss_suggests_deepspeed_configurations_only() -> None:
    Path("package.json").write_text('{"name": "x"}')
    Path("offload.json").write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    with pytest.raises(
        InputError, match=r'deepspeed = "ofload\.json", but .* no such file'
    ) as near:
        read_deepspeed_json("ofload.json")
    assert "did you mean offload.json?" in str(near.value)
    with pytest.raises(InputError) as far:
        read_deepspeed_json("packag.json")
    assert "use one that ships: ds_configs/zero0.json" in str(far.value)
    assert "schema" not in str(far.value)

"""`dskd init` writes a spec that is valid and teaches; wrong arguments leave no file."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from dskd_ds.commands import cli
from dskd_ds.commands.init_choices import choose_cluster_ranks, choose_ranks
from dskd_ds.data.documents import matching_files
from dskd_ds.spec import load_spec
from dskd_ds.spec.load import expand
from dskd_ds.spec.schema import spec_schema
from dskd_ds.student.ds_config import read_deepspeed_json
from tests.conftest import TinyWorld


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and a home in which nothing was fetched."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSKD_HOME", str(tmp_path / "home"))
    return tmp_path


def fetch_quickstart(home: Path) -> None:
    """Make empty files where the quickstart puts what it fetches."""
    spec = load_spec("ds_configs/runs/quickstart.toml")
    for path in (spec.teacher.model, spec.data.train[0].path, spec.data.heldout[0].path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    (home / "quickstart" / "wordnet").mkdir()
    (home / "quickstart" / "wordnet" / "data.noun").touch()


def test_it_takes_the_quickstarts_files_and_prints_what_comes_next(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch_quickstart(folder / "home")
    assert cli.main(["init", "mine v1.toml"]) == 0
    spec = load_spec("mine v1.toml")
    quickstart = load_spec("ds_configs/runs/quickstart.toml")
    assert spec.name == "mine-v1"
    assert (spec.run_dir, spec.senses.dictionary) == ("runs/mine-v1", "runs/mine-v1/senses")
    assert (spec.teacher, spec.data.train) == (quickstart.teacher, quickstart.data.train)
    assert spec.data.heldout == quickstart.data.heldout
    assert spec.student.num_layers == 20
    assert (spec.repair.steps, spec.loss.ce_weight, spec.loss.kd_weight) == (40, 0, 1)
    assert spec.senses.lexicons == quickstart.senses.lexicons
    output = capsys.readouterr().out
    for command in ("senses build", "train", "eval", "report"):
        assert f"dskd {command} 'mine v1.toml'" in output


@pytest.mark.usefixtures("folder")
def test_it_takes_a_folder_and_files(tiny: TinyWorld) -> None:
    teacher, text = str(tiny.folder / "teacher"), str(tiny.folder / "train.jsonl")
    assert cli.main(["init", "mine.toml", "--teacher", teacher, "--text", text]) == 0
    spec = load_spec("mine.toml")
    assert (spec.teacher.model, spec.data.train[0].path) == (teacher, text)
    assert (spec.student.layers, spec.student.num_layers) == ("by_impact", 3)  # of 4
    assert spec.data.block_tokens <= 256  # what the teacher reads at most
    assert matching_files(expand(spec.data.train[0].path)) == [text]
    assert read_deepspeed_json(spec.deepspeed)


@pytest.mark.usefixtures("folder")
def test_hub_names_are_not_looked_up(capsys: pytest.CaptureFixture[str]) -> None:
    hub = ["--teacher", "nobody/no-such-model", "--text", "nobody/no-such-dataset"]
    assert cli.main(["init", "mine.toml", *hub]) == 0
    spec = load_spec("mine.toml")
    assert (spec.student.layers, spec.repair.steps) == ("all", 0)
    assert "nothing to learn" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_a_login_node_needs_neither_gpus_nor_memory(capsys: pytest.CaptureFixture[str]) -> None:
    teacher = ["--teacher", "meta-llama/Llama-3.1-70B-Instruct", "--text", "c/d"]
    assert cli.main(["init", "mine.toml", *teacher]) == 2
    assert "does not fit" in capsys.readouterr().err
    assert cli.main(["init", "mine.toml", *teacher, "--gpus-per-node", "8"]) == 0
    spec = load_spec("mine.toml")
    assert (spec.student.layers, spec.student.num_layers) == ("by_impact", 53)  # of 80
    assert spec.deepspeed.endswith("zero3.json")
    assert (spec.topology.num_students, spec.topology.num_teachers) == (6, 2)
    assert spec.data.block_tokens == 1024
    output = capsys.readouterr().out
    assert "dskd plan mine.toml --cluster" in output
    assert "dskd submit mine.toml --what senses,train,eval --gpus-per-node 8" in output


@pytest.mark.parametrize(("gpus", "students", "teachers"), [(1, 2, 1), (2, 2, 1), (4, 3, 1)])
def test_small_nodes_hold_students_or_teachers(gpus: int, students: int, teachers: int) -> None:
    ranks = choose_cluster_ranks(gpus)
    assert (ranks.num_students, ranks.num_teachers) == (students, teachers)


@pytest.mark.usefixtures("folder")
def test_the_file_is_short_has_comments_and_names_the_schema() -> None:
    assert cli.main(["init", "mine.toml", "--teacher", "a/b", "--text", "c/d"]) == 0
    text = Path("mine.toml").read_text()
    lines = text.splitlines()
    assert len(lines) < 70
    directive, schema = lines[0].split(" ", 1)
    assert directive == "#:schema"
    assert Path(schema).is_absolute()
    assert Path(schema).is_file()
    assert not list(Draft202012Validator(spec_schema()).iter_errors(tomllib.loads(text)))
    for command in ("senses build", "train", "eval", "report"):
        assert re.search(rf"^#   dskd {command} mine\.toml", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], ["no file is named"]),
        (["mine.toml"], ["--teacher is not given", "give --teacher NAME", "dskd quickstart"]),
        (["mine.toml", "--teacher", "a/b"], ["--text is not given", "give --text PATH"]),
        (["mine"], ["ends in .toml", "use mine.toml"]),
        (["away/mine.txt"], ["ends in .toml", "use away/mine.toml"]),
        (["away/mine.toml"], ["the folder away does not exist"]),
        (["mine.toml", "--teacher", "./nowhere"], ['--teacher = "./nowhere"', "no such folder"]),
        (["mine.toml", "--teacher", "/no/where"], ['--teacher = "/no/where"', "no such folder"]),
        (["mine.toml", "--teacher", "~nobody0/x"], ['--teacher = "~nobody0/x"', "no such folder"]),
        (["mine.toml", "--teacher", "a/b.safetensors"], ["--teacher = ", "no such folder"]),
        (["mine.toml", "--teacher", "a/b", "--text", "notes.md"], ["--text", "no such file"]),
        (["mine.toml", "--teacher", "a/b", "--text", "data/part-*"], ["--text", "no such file"]),
        (["mine.toml", "--teacher", "a/b", "--text", "a/b/c"], ["--text", "no such file"]),
        (["mine.toml", "--teacher", "nowhere.gguf"], ["--teacher", "no such file"]),
        (["mine.toml", "--teacher", "a/b", "--text", "nowhere.txt"], ["--text", "no such file"]),
    ],
)
@pytest.mark.usefixtures("folder")
def test_wrong_arguments_end_with_2_and_leave_no_file(
    argv: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["init", *argv]) == 2
    message = capsys.readouterr().err
    for part in expected:
        assert part in message
    assert not Path("mine.toml").exists()


@pytest.mark.usefixtures("folder")
def test_an_existing_file_is_not_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.toml").write_text("precious")
    assert cli.main(["init", "mine.toml", "--teacher", "a/b", "--text", "c/d"]) == 2
    assert "mine.toml: this file exists" in capsys.readouterr().err
    assert Path("mine.toml").read_text() == "precious"


@pytest.mark.usefixtures("folder")
def test_list_names_what_ships(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init", "--list"]) == 0
    output = capsys.readouterr().out
    for name in ("ds_configs/runs/quickstart.toml", "ds_configs/zero3.json"):
        assert name in output
    assert "spec.schema.json" not in output


@pytest.mark.parametrize(
    ("num_gpus", "num_cores", "students", "teachers", "threads", "config"),
    [
        (0, 1, 1, 1, 1, "zero3_cpu"),
        (0, 2, 2, 1, 1, "zero3_cpu"),
        (0, 16, 2, 1, 5, "zero3_cpu"),
        (1, 8, 1, 1, 0, "zero0"),
        (2, 8, 1, 1, 0, "zero0"),
        (8, 64, 6, 2, 0, "zero3"),
    ],
)
def test_ranks_fit_the_machine(
    num_gpus: int, num_cores: int, students: int, teachers: int, threads: int, config: str
) -> None:
    ranks = choose_ranks(num_gpus, num_cores)
    assert (ranks.num_students, ranks.num_teachers) == (students, teachers)
    assert ranks.threads_per_rank == threads
    assert ranks.deepspeed == f"ds_configs/{config}.json"
    assert read_deepspeed_json(ranks.deepspeed)


def test_schema_is_printed_or_stored(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"]) == 0
    printed = capsys.readouterr().out
    assert cli.main(["schema", "--output", "s.json"]) == 0
    assert (folder / "s.json").read_text() == printed
    assert cli.main(["schema", "--output", "nowhere/s.json"]) == 2
    assert "--output nowhere/s.json: it cannot be written" in capsys.readouterr().err

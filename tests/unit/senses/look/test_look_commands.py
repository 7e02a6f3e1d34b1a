"""The commands `dskd senses show | map | projector | stats`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dskd_ds.commands import cli
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from tests.conftest import TinyWorld


def run(
    command: str,
    *arguments: str,
    dictionary: SenseDictionary,
    tiny: TinyWorld,
    run_dir: Path,
) -> int:
    """Run `dskd senses COMMAND` on the known dictionary; return the exit code."""
    overrides = [f"senses.dictionary={dictionary.folder}", f"run_dir={run_dir}"]
    settings = [argument for override in overrides for argument in ("--set", override)]
    return cli.main(["senses", command, str(tiny.spec_file), *arguments, *settings])


def test_show(
    dictionary: SenseDictionary, tiny: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("show", "bank", "--json", dictionary=dictionary, tiny=tiny, run_dir=tmp_path) == 0
    assert json.loads(capsys.readouterr().out)[0]["senses"][0]["nearest"][0]["word"] == "money"
    assert run("show", "bank", "qqq", dictionary=dictionary, tiny=tiny, run_dir=tmp_path) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("qqq: no senses in")
    assert not shown.out


def test_map(dictionary: SenseDictionary, tiny: TinyWorld, tmp_path: Path) -> None:
    assert run("map", "bank", "river", dictionary=dictionary, tiny=tiny, run_dir=tmp_path) == 0
    assert (tmp_path / "senses-bank-river.png").stat().st_size > 10_000


def test_projector(
    dictionary: SenseDictionary, tiny: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run("projector", "--max-senses", "3", dictionary=dictionary, tiny=tiny, run_dir=tmp_path)
        == 0
    )
    assert "3 senses" in capsys.readouterr().out
    assert (
        run("projector", "--max-senses", "0", dictionary=dictionary, tiny=tiny, run_dir=tmp_path)
        == 2
    )
    assert "--max-senses 0 is invalid" in capsys.readouterr().err


def test_stats(
    dictionary: SenseDictionary, tiny: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("stats", "--json", dictionary=dictionary, tiny=tiny, run_dir=tmp_path) == 0
    assert json.loads(capsys.readouterr().out)["num_tokens"] == 6


@pytest.mark.parametrize(
    ("command", "output"),
    [
        (("map", "bank"), "folder"),
        (("map", "bank"), "file/senses.png"),
        (("stats",), "folder"),
        (("stats",), "file/stats.png"),
        (("projector",), "file"),
        (("projector",), "file/projector"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(
    command: tuple[str, ...],
    output: str,
    dictionary: SenseDictionary,
    tiny: TinyWorld,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    argv = (*command, "--output", str(tmp_path / output))
    assert run(*argv, dictionary=dictionary, tiny=tiny, run_dir=tmp_path) == 2
    assert f"--output {tmp_path / output}: it cannot be written" in capsys.readouterr().err

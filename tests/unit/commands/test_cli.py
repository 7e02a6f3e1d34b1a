"""The command line: help, and exit codes for wrong input."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import pytest

from dskd_ds.commands import cli
from tests.conftest import TinyWorld


def test_wrong_spec_ends_with_2_and_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "nowhere.toml"]) == 2
    assert capsys.readouterr().err.startswith("nowhere.toml: there is no such file.")


def test_errors_in_a_loaded_spec_name_its_file(
    tiny: TinyWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = ["--set", 'data.train=[{path="/nowhere/a.jsonl"}]']
    for argv in (["train", "--dry-run"], ["data", "pack", "--set", "data.packed=x"]):
        assert cli.main([*argv, str(tiny.spec_file), *missing]) == 2
        start = f"{tiny.spec_file}: [data"
        assert capsys.readouterr().err.startswith(start)
    assert cli.main(["data", "pack", str(tiny.spec_file)]) == 2
    assert f"{tiny.spec_file}: [data] packed is not given" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "reason"), [("0", "at least 1"), ("-2", "at least 1"), ("two", "a whole number")]
)
@pytest.mark.parametrize(
    "words", [("senses", "build"), ("senses", "refresh"), ("data", "continue"), ("data", "pack")]
)
def test_a_wrong_number_of_ranks_is_refused(
    words: tuple[str, str], value: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([*words, "nowhere.toml", "--ranks", value])
    assert end.value.code == 2
    expected = f"argument --ranks: {value} is invalid: must be {reason}\n"
    assert capsys.readouterr().err.endswith(expected)


def test_restarts_may_not_be_negative(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "nowhere.toml", "--restarts", "-1"])
    assert end.value.code == 2
    assert "argument --restarts: -1 is invalid: must be at least 0" in capsys.readouterr().err


@pytest.mark.parametrize(("argv", "code"), [(("init", "--list"), 1), (("--help",), 0)])
def test_a_reader_that_leaves_gets_no_traceback(argv: tuple[str, ...], code: int) -> None:
    """As with `dskd init --list | head -1`: nobody reads the pipe any more."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "dskd_ds.commands.cli", *argv]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=120)
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == code


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for command in (
        "quickstart",
        "dskd init my.toml",
        "senses build",
        "dskd report",
        "dskd schema",
    ):
        assert command in text
    assert "exit codes" in text


def commands_of(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> list[list[str]]:
    """Return the words of every command that the parser knows, its own first."""
    found = [list(words)]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                found += commands_of(command, (*words, name))
    return found


@pytest.mark.parametrize("words", commands_of(cli.parser()), ids=" ".join)
def test_every_command_has_a_description_that_fits_a_terminal(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        cli.main([*words, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    _, description, *_ = text.split("\n\n")
    assert not description.startswith(("options:", "positional arguments:"))
    assert max(map(len, text.splitlines())) <= 100

"""The command line: help, and exit codes for wrong input."""

from __future__ import annotations

import pytest

from dskd_ds.commands import cli


def test_wrong_spec_ends_with_2_and_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "nowhere.toml"]) == 2
    assert capsys.readouterr().err.startswith("nowhere.toml: there is no such file.")


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

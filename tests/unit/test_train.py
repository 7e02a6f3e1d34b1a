"""The entry of every rank."""

from __future__ import annotations

import time

import pytest

from dskd_ds import train


def test_an_error_that_only_another_rank_finds_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A path is missing on one node only, so rank 0 has no error to report."""
    environment = {
        "RANK": "1",
        "WORLD_SIZE": "3",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "127.0.0.1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    assert train.main(["--spec", "nowhere.toml"]) == 2
    assert waited == [train.RANK_0_FIRST_SECONDS]
    assert capsys.readouterr().err.startswith("nowhere.toml: there is no such file.")

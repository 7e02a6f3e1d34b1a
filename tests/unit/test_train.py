"""The entry of every rank."""

from __future__ import annotations

import pytest

from dskd_ds import train


def test_what_only_another_rank_finds_wrong_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A path that is missing on one node: rank 0 has nothing to say."""
    for name, value in {
        "RANK": "1",
        "WORLD_SIZE": "3",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    waited: list[float] = []
    monkeypatch.setattr(train.time, "sleep", waited.append)
    assert train.main(["--spec", "nowhere.toml"]) == 2
    assert waited == [train.FIRST_RANK_SPEAKS_SECONDS]  # the word is rank 0's
    assert capsys.readouterr().err.startswith("nowhere.toml: there is no such file.")

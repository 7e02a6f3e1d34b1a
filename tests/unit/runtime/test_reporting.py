"""Errors that end a rank."""

from __future__ import annotations

import time

import pytest

from dskd_ds.errors import ExitCode, InputError, OtherRankError
from dskd_ds.runtime.reporting import report_error


@pytest.mark.parametrize(("rank", "expected"), [(0, []), (3, [5.0])])
def test_other_ranks_wait_before_they_report(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rank: int,
    expected: list[float],
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    assert report_error(InputError("a key is wrong"), rank, 5.0) == ExitCode.WRONG_INPUT
    assert waited == expected
    assert capsys.readouterr().err == "a key is wrong\n"


def test_an_error_without_a_message_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_error(OtherRankError(ExitCode.NO_TEACHER)) == ExitCode.NO_TEACHER
    assert capsys.readouterr().err == ""

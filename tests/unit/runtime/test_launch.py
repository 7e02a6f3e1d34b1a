"""How often `dskd train --restarts` starts its launch, and why."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dskd_ds.runtime import launch
from dskd_ds.runtime.supervise import LaunchEnd
from dskd_ds.spec import load_spec

ENDS_WITH = """
import os, signal, sys
path, *codes = sys.argv[1:]
with open(path, "a") as file:
    file.write("x")
code = int(codes[min(os.path.getsize(path), len(codes)) - 1])
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("codes", "restarts", "starts", "last_code", "reasons"),
    [
        ([0], 3, 1, 0, []),
        ([2], 3, 1, 2, []),
        ([4], 3, 1, 4, []),
        ([1], 0, 1, 1, []),
        ([1], 2, 3, 1, ["it failed (exit code 1); restart 1 of 2.", "restart 2 of 2."]),
        ([3, 0], 2, 2, 0, ["asked for a restart (exit code 3); restart 1 of 2."]),
        ([-9, 0], 1, 2, 0, ["SIGKILL ended it (exit code 137); restart 1 of 1."]),
        # The deepspeed launcher's code for a rank that SIGSEGV ended.
        ([245, 3, 2], 5, 3, 2, ["SIGSEGV ended it (exit code 245); restart 1 of 5.", "code 3"]),
    ],
)
def test_a_launch_is_started_again_after_3_or_a_crash(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    codes: list[int],
    restarts: int,
    starts: int,
    last_code: int,
    reasons: list[str],
) -> None:
    path = tmp_path / "starts"
    command = [sys.executable, "-c", ENDS_WITH, str(path), *map(str, codes)]
    monkeypatch.setattr(launch, "train_command", lambda *_: command)
    spec = load_spec("tests/base_run.toml", [])
    assert launch.run_training("x.toml", [], spec, restarts).code == last_code
    assert len(path.read_text()) == starts
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == len(reasons) == starts - 1
    for line, reason in zip(lines, reasons, strict=True):
        assert reason in line


def test_a_launch_that_was_told_to_stop_is_not_started_again() -> None:
    import signal

    assert LaunchEnd(3, None).is_worth_a_restart
    assert not LaunchEnd(3, signal.SIGTERM).is_worth_a_restart

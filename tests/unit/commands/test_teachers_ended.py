"""What a job of teachers does when they have ended."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from dskd_ds.commands import attempt
from dskd_ds.observe.run_files import RUN_START_FILE, RecordFile, record_end, record_submission
from dskd_ds.runtime.slurm import JobFacts
from tests.unit.commands.test_attempt import begin
from tests.unit.observe.made_runs import START


@pytest.mark.parametrize(
    ("code", "job_state", "run_state", "decision"),
    [
        (0, "RUNNING", "finished", "stop"),
        (2, "RUNNING", "running", "stop"),
        (1, "RUNNING", "failed", "again"),
        # Killed at the end of the run: a new one would wait for students that do not come.
        (137, "COMPLETED", "finished", "stop"),
        (143, "RUNNING", "running", "again"),
        (4, "RUNNING", "starting", "again"),
        # Its first node failed, so that nothing was recorded.
        (4, "PENDING", "dead", "requeue"),
        (4, "COMPLETING", "saved", "requeue"),
        # Cancelled while it waited to start again.
        (4, "CANCELLED", "queued", "stop"),
        (4, "CANCELLED", "saved", "stop"),
        (4, "", "dead", "stop"),
    ],
)
def test_what_a_job_of_teachers_does_when_they_have_ended(
    *,
    job: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: int,
    job_state: str,
    run_state: str,
    decision: str,
) -> None:
    begin(tmp_path)
    capsys.readouterr()
    job["state"] = job_state
    monkeypatch.setattr(attempt, "read_status", lambda _: SimpleNamespace(state=run_state))
    argv = ["teachers-ended", "--run-dir", str(tmp_path), "--exit-code", str(code)]
    assert attempt.main(argv) == 0
    assert capsys.readouterr().out == f"{decision}\n"


@pytest.mark.usefixtures("job")
def test_teachers_start_again_while_the_job_of_a_longer_run_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = time.time() - 100
    start = START.model_copy(update={"host": socket.gethostname(), "pid": os.getpid()})
    RecordFile(tmp_path / RUN_START_FILE).write(start.model_copy(update={"started": before}))
    record_end(tmp_path, "student", 0, exit_code=0, message="")
    argv = ["teachers-ended", "--run-dir", str(tmp_path), "--exit-code", "1"]
    assert attempt.main(argv) == 0
    begin(tmp_path)
    assert attempt.main(argv) == 0
    assert capsys.readouterr().out.split() == ["stop", "1", "again"]


@pytest.mark.parametrize(
    ("states", "decision"),
    [
        ({"7": "COMPLETED", "8": "PENDING"}, "requeue"),
        ({"7": "COMPLETED", "8": "RUNNING", "9": "PENDING"}, "again"),
        ({"7": "COMPLETED", "8": "CANCELLED"}, "stop"),
    ],
)
def test_teachers_wait_for_every_job_of_a_chain(
    *,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    states: dict[str, str],
    decision: str,
) -> None:
    (tmp_path / "attempts").mkdir()
    record_submission(tmp_path, list(states), ["dskd", "submit"], submitted=1.0)
    monkeypatch.setattr(attempt, "read_job", lambda job: JobFacts(states[job], ()))
    argv = ["teachers-ended", "--run-dir", str(tmp_path), "--exit-code", "4"]
    assert attempt.main(argv) == 0
    assert capsys.readouterr().out == f"{decision}\n"

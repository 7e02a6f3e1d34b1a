"""What the job scripts call: records of attempts, and the decision to start again."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_ds.commands import attempt
from dskd_ds.commands.status import read_status
from dskd_ds.observe.attempts import Attempt, log_dir, read_attempts
from tests.unit.observe.made_runs import save

RANK_1_FAILED = (
    "srun: error: node2: task 1: Exited with exit code 2\nsrun: error: n1: task 0: Killed"
)


def begin(run_dir: Path, chain_index: int = 1) -> int:
    return attempt.main(["begin", "--run-dir", str(run_dir), "--chain-index", str(chain_index)])


def end(run_dir: Path, code: int, *more: str) -> Attempt:
    number = str(read_attempts(run_dir)[-1].number)
    argv = ["end", "--run-dir", str(run_dir), "--number", number, "--exit-code", str(code)]
    assert attempt.main([*argv, *more]) == 0
    return read_attempts(run_dir)[-1]


def write_log(run_dir: Path, name: str, text: str) -> None:
    (log_dir(run_dir, 1) / name).write_text(text)


@pytest.mark.usefixtures("job")
def test_begin_prints_the_number_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, 12)
    assert begin(tmp_path) == 0
    printed = capsys.readouterr()
    assert printed.out == "1\n"
    assert "attempt 1 of" in printed.err
    (record,) = read_attempts(tmp_path)
    assert (record.nodes, record.first_step, record.job_id) == (["n1", "n2"], 12, "7")


@pytest.mark.usefixtures("job")
def test_a_saved_attempt_is_requeued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin(tmp_path)
    save(tmp_path, 5)
    capsys.readouterr()
    record = end(tmp_path, 3, "--stop-wish", "time_limit")
    assert capsys.readouterr().out == "requeue\n"
    assert (record.reason, record.last_step, record.is_requeued) == ("time_limit", 5, True)


@pytest.mark.usefixtures("job")
def test_in_a_chain_the_next_job_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(tmp_path)
    save(tmp_path, 5)
    chain = ("--chain-length", "2", "--stop-wish", "time_limit")
    capsys.readouterr()
    record = end(tmp_path, 3, *chain, "--chain-index", "1")
    assert capsys.readouterr().out == "stop\n"
    assert "job 2 of 2 goes on" in record.message
    assert begin(tmp_path, chain_index=2) == 0
    save(tmp_path, 9)
    # The last one has no successor.
    assert end(tmp_path, 3, *chain, "--chain-index", "2").is_requeued


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize(("code", "expected"), [(0, 0), (2, 1)])
def test_later_jobs_of_a_chain_do_nothing_after_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], code: int, expected: int
) -> None:
    begin(tmp_path)
    end(tmp_path, code)
    capsys.readouterr()
    assert begin(tmp_path, chain_index=2) == expected
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "has nothing to do" in printed.err
    assert len(read_attempts(tmp_path)) == 1


def test_scancel_ends(tmp_path: Path, job: dict[str, str]) -> None:
    begin(tmp_path)
    save(tmp_path, 5)
    write_log(tmp_path, "student-0.log", "*** STEP 7.2 ON n1 CANCELLED AT 2026-11-25T17:34:32 ***")
    job["state"] = "COMPLETING"
    record = end(tmp_path, 3, "--stop-wish", "ending")
    assert (record.reason, record.is_requeued) == ("cancelled", False)


@pytest.mark.usefixtures("job")
def test_the_rank_that_failed_first_counts_and_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(tmp_path)
    write_log(tmp_path, "students-step.log", RANK_1_FAILED)
    write_log(tmp_path, "student-1.log", "loading\nno such file: data.jsonl\n")
    record = end(tmp_path, 137)
    assert (record.reason, record.exit_code) == ("wrong_input", 2)
    assert "no such file: data.jsonl" in capsys.readouterr().err


@pytest.mark.usefixtures("job")
def test_a_node_that_does_not_see_the_run_directory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "n2")
    begin(tmp_path)
    seen = ["check-node", "--run-dir", str(tmp_path), "--number", "1"]
    assert attempt.main(seen) == 0
    unseen = ["check-node", "--run-dir", str(tmp_path / "elsewhere"), "--number", "1"]
    assert attempt.main(unseen) == 2
    assert "node n2 does not see" in capsys.readouterr().err


@pytest.mark.usefixtures("job")
def test_a_rank_that_a_signal_ended_first_is_no_preemption(tmp_path: Path) -> None:
    """srun ends the other ranks with SIGTERM, and returns the largest code."""
    begin(tmp_path)
    write_log(
        tmp_path,
        "students-step.log",
        "srun: error: n2: task 1: Aborted (core dumped)\nsrun: error: n1: task 0: Terminated\n",
    )
    record = end(tmp_path, 143)
    assert (record.reason, record.exit_code, record.is_requeued) == ("failed", 134, False)


@pytest.mark.parametrize(
    ("wish", "job_state", "is_requeued"),
    [
        ("time_limit", "RUNNING", False),
        ("time_limit", "COMPLETING", False),
        # SLURM requeues it.
        ("ending", "COMPLETING", True),
    ],
)
def test_a_refused_requeue_is_recorded(
    *, tmp_path: Path, job: dict[str, str], wish: str, job_state: str, is_requeued: bool
) -> None:
    begin(tmp_path)
    save(tmp_path, 5)
    line = "*** STEP 7.2 ON n1 CANCELLED AT 2026-11-25T17:34:32 DUE TO PREEMPTION ***"
    if wish == "ending":
        write_log(tmp_path, "student-0.log", line)
        job["state"] = job_state
    assert end(tmp_path, 3, "--stop-wish", wish).is_requeued
    job["state"] = job_state
    assert attempt.main(["not-requeued", "--run-dir", str(tmp_path), "--number", "1"]) == 0
    (record,) = read_attempts(tmp_path)
    assert record.is_requeued is is_requeued
    assert ("SLURM refused" in record.message) is not is_requeued
    assert (read_status(tmp_path).state == "queued") is is_requeued


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize(
    ("code", "last_step", "goes_on"), [(1, 5, True), (1, 0, False), (4, 5, True), (143, 0, True)]
)
def test_a_chain_goes_on_after_what_may_pass(
    *, tmp_path: Path, capsys: pytest.CaptureFixture[str], code: int, last_step: int, goes_on: bool
) -> None:
    begin(tmp_path)
    if last_step:
        save(tmp_path, last_step)
    end(tmp_path, code, "--chain-length", "2")
    capsys.readouterr()
    assert (begin(tmp_path, chain_index=2) == 0) is goes_on
    assert capsys.readouterr().out == ("2\n" if goes_on else "")


@pytest.mark.usefixtures("job")
def test_a_long_repair_goes_on_as_long_as_it_saves(tmp_path: Path) -> None:
    for step in range(100, 500, 100):
        begin(tmp_path)
        save(tmp_path / "repair", step)
        record = end(tmp_path, 3, "--stop-wish", "time_limit")
        assert record.is_requeued
        assert f"the newest checkpoint of the repair is step {step};" in record.message
    begin(tmp_path)
    save(tmp_path / "repair", 500)
    assert end(tmp_path, 1).is_requeued  # a crash, after a save
    begin(tmp_path)
    assert not end(tmp_path, 1).is_requeued


@pytest.mark.parametrize(
    ("job_state", "reason", "num_attempts"),
    [("NODE_FAIL", "unknown", 2), ("", "unknown", 2), ("CANCELLED", "cancelled", 1)],
)
def test_a_chain_goes_on_after_a_job_that_could_not_record_its_end(
    *, tmp_path: Path, job: dict[str, str], job_state: str, reason: str, num_attempts: int
) -> None:
    """Unless a user has cancelled it."""
    begin(tmp_path)
    save(tmp_path, 5)
    job["state"] = job_state
    assert (begin(tmp_path, chain_index=2) == 0) is (num_attempts == 2)
    records = read_attempts(tmp_path)
    assert len(records) == num_attempts
    assert (records[0].reason, records[0].last_step) == (reason, 5)


@pytest.mark.usefixtures("job")
def test_a_folder_that_is_no_checkpoint_is_passed_over(tmp_path: Path) -> None:
    save(tmp_path, 5)
    copy = tmp_path / "checkpoints" / "step-00000009-copy"
    copy.mkdir()
    (copy / "manifest.json").touch()
    assert begin(tmp_path) == 0
    assert end(tmp_path, 3).last_step == 5

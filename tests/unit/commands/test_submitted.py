"""What `dskd submit` records about the jobs of a run, and which run it refuses because of them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dskd_ds.commands import cli, submit
from dskd_ds.errors import InputError
from dskd_ds.observe.run_files import SUBMISSION_FILE, Submission, read_record, record_submission
from dskd_ds.runtime import slurm
from tests.conftest import TinyWorld


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_a_run_that_a_job_trains_or_waits_to_train_is_not_submitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """A job that waits for its first start has written nothing."""
    (tmp_path / "attempts").mkdir()
    monkeypatch.setattr(slurm, "read_job", lambda _: slurm.JobFacts("COMPLETED", ()))
    record_submission(tmp_path, ["11", "12"], ["dskd", "submit"], submitted=1.0)
    submit._refuse_a_running_job(tmp_path)
    monkeypatch.setattr(
        slurm, "read_job", lambda job: slurm.JobFacts(state if job == "12" else "", ())
    )
    with pytest.raises(InputError, match=r"job 12 .* this run(.|\n)*scancel 12"):
        submit._refuse_a_running_job(tmp_path)


@pytest.mark.parametrize(
    ("what", "recorded"), [("eval", None), ("senses,train,eval", ["11"]), ("train", ["10"])]
)
def test_only_jobs_that_train_are_recorded_as_the_runs(
    *,
    tiny: TinyWorld,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    recorded: list[str] | None,
) -> None:
    """Otherwise a finished run would be called queued after --what eval."""
    numbers = iter(["10", "11", "12"])
    monkeypatch.setattr(slurm, "submit", lambda *_, **__: next(numbers))
    monkeypatch.setattr(slurm, "require_slurm", lambda: None)
    monkeypatch.setattr("dskd_ds.plan.preflight.preflight", lambda *_, **__: None)
    argv = ["submit", str(tiny.spec_file), "--ntasks-per-node", "3", "--what", what]
    assert cli.main([*argv, "--set", f"run_dir={tmp_path}"]) == 0
    record = read_record(tmp_path / SUBMISSION_FILE, Submission)
    assert (record.job_ids if record else None) == recorded


def test_a_submission_begins_before_its_first_job_can(
    tiny: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dskd status` compares the two."""
    calls: list[float] = []

    def submit_job(*_: object, **__: object) -> str:
        calls.append(time.time())
        return "10"

    monkeypatch.setattr(slurm, "submit", submit_job)
    monkeypatch.setattr(slurm, "require_slurm", lambda: None)
    monkeypatch.setattr("dskd_ds.plan.preflight.preflight", lambda *_, **__: None)
    argv = ["submit", str(tiny.spec_file), "--ntasks-per-node", "3"]
    assert cli.main([*argv, "--set", f"run_dir={tmp_path}"]) == 0
    record = read_record(tmp_path / SUBMISSION_FILE, Submission)
    assert record is not None
    assert record.submitted <= calls[0]

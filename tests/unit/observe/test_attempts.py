"""Records of attempts: numbers, ends that could not be written, files of other versions."""

from __future__ import annotations

from pathlib import Path

from dskd_ds.observe.attempts import (
    Attempt,
    attempt_number,
    begin_attempt,
    log_dir,
    read_attempts,
    record_path,
    write_attempt,
)

JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "tiny", "SLURM_RESTART_COUNT": "2"}


def begin(run_dir: Path, first_step: int = 0, job_id: str = "7") -> Attempt:
    env = JOB | {"SLURM_JOB_ID": job_id}
    return begin_attempt(run_dir, env=env, nodes=["a1", "a2"], first_step=first_step)


def test_attempts_are_numbered_and_read_back(tmp_path: Path) -> None:
    first = begin(tmp_path)
    write_attempt(tmp_path, first.model_copy(update={"ended": 5.0, "reason": "time_limit"}))
    second = begin(tmp_path, first_step=4)
    assert [attempt.number for attempt in read_attempts(tmp_path)] == [1, 2]
    assert read_attempts(tmp_path)[1] == second
    assert second.nodes == ["a1", "a2"]
    assert (second.job_id, second.restart_count, second.first_step) == ("7", 2, 4)
    assert log_dir(tmp_path, 2).is_dir()
    assert read_attempts(tmp_path)[0].reason == "time_limit"


def test_more_than_nine_attempts_are_in_order(tmp_path: Path) -> None:
    for _ in range(11):
        begin(tmp_path)
    assert [attempt.number for attempt in read_attempts(tmp_path)] == list(range(1, 12))


def test_an_attempt_without_an_end_is_closed_by_the_next_of_its_job(tmp_path: Path) -> None:
    begin(tmp_path)
    begin(tmp_path, first_step=6)
    lost = read_attempts(tmp_path)[0]
    assert (lost.reason, lost.last_step, lost.is_requeued) == ("unknown", 6, True)
    assert lost.ended is not None
    assert lost.made_progress


def test_another_jobs_attempt_stays_open(tmp_path: Path) -> None:
    begin(tmp_path, job_id="7")
    begin(tmp_path, job_id="8")
    assert read_attempts(tmp_path)[0].ended is None


def test_a_number_that_another_job_has_taken_is_passed_over(tmp_path: Path) -> None:
    """The other job has made its folder, but not yet written its record."""
    log_dir(tmp_path, 1).mkdir(parents=True)
    assert begin(tmp_path).number == 2


def test_files_of_other_versions_do_not_disturb(tmp_path: Path) -> None:
    begin(tmp_path)
    later = record_path(tmp_path, 1).read_text().replace("{", '{"of_a_later_version": 1,', 1)
    record_path(tmp_path, 1).write_text(later)
    record_path(tmp_path, 2).write_text("{half a rec")
    assert [attempt.number for attempt in read_attempts(tmp_path)] == [1]
    assert read_attempts(tmp_path / "nothing") == []


def test_the_number_reaches_processes_by_their_environment() -> None:
    assert attempt_number({"DSKD_ATTEMPT": "12"}) == 12
    assert attempt_number({}) is None

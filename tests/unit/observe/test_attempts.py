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
from tests.unit.observe.made_runs import save

JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "tiny", "SLURM_RESTART_COUNT": "2"}


def begin(run_dir: Path, job_id: str = "7") -> Attempt:
    env = JOB | {"SLURM_JOB_ID": job_id}
    return begin_attempt(run_dir, env=env, nodes=["a1", "a2"])


def test_attempts_are_numbered_and_read_back(tmp_path: Path) -> None:
    first = begin(tmp_path)
    write_attempt(tmp_path, first.model_copy(update={"ended": 5.0, "reason": "time_limit"}))
    save(tmp_path, 4)
    second = begin(tmp_path)
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
    save(tmp_path, 6)
    begin(tmp_path)
    lost = read_attempts(tmp_path)[0]
    assert (lost.reason, lost.last_step, lost.is_requeued) == ("unknown", 6, True)
    assert lost.ended is not None
    assert lost.made_progress


def test_steps_of_an_unfinished_repair_and_its_end_are_progress(tmp_path: Path) -> None:
    save(tmp_path / "repair", 100)
    assert begin(tmp_path).first_repair_step == 100
    save(tmp_path / "repair", 200)
    begin(tmp_path)
    begin(tmp_path)
    (tmp_path / "student_repaired").mkdir()
    begin(tmp_path)
    begin(tmp_path)
    closed = read_attempts(tmp_path)[:-1]
    assert [attempt.last_repair_step for attempt in closed] == [200, 200, None, None]
    assert [attempt.made_progress for attempt in closed] == [True, False, True, False]


def test_a_record_without_steps_of_the_repair_is_judged_by_its_checkpoints(tmp_path: Path) -> None:
    """Earlier versions wrote such records."""
    ended = begin(tmp_path).model_copy(update={"ended": 5.0, "last_step": 4})
    repair = {"first_repair_step", "last_repair_step"}
    record_path(tmp_path, 1).write_text(ended.model_dump_json(exclude=repair))
    assert read_attempts(tmp_path)[0].made_progress
    same = ended.model_copy(update={"first_step": 4})
    record_path(tmp_path, 1).write_text(same.model_dump_json(exclude=repair))
    assert not read_attempts(tmp_path)[0].made_progress


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

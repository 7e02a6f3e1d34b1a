"""The small files of a run: readers survive whatever they find, writers survive the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_ds.observe.run_files import (
    ENDS_FOLDER,
    SUBMISSION_FILE,
    End,
    RankProgress,
    RecordFile,
    Submission,
    end_file,
    progress_file,
    read_record,
    read_records,
    record_end,
    record_submission,
)

PROGRESS = RankProgress(rank=3, host="node1", pid=12, phase="forward", step=7, since=100.0)


def test_a_record_comes_back(tmp_path: Path) -> None:
    path = progress_file(tmp_path, 3)
    RecordFile(path).write(PROGRESS)
    assert read_record(path, RankProgress) == PROGRESS
    assert read_records(tmp_path, "progress/student-*.json", RankProgress) == {path: PROGRESS}


@pytest.mark.parametrize(
    "content",
    [b"", b'{"rank": 3, "ho', b"[]", b"\xff\x00", b'{"rank": "x"}', b'{"rank": 1}'],
    ids=["empty", "cut", "a list", "no text", "wrong type", "keys missing"],
)
def test_an_invalid_record_reads_as_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "student-00000.json"
    path.write_bytes(content)
    assert read_record(path, RankProgress) is None
    assert read_records(tmp_path, "student-*.json", RankProgress) == {}


def test_keys_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(PROGRESS.model_dump_json()[:-1] + ', "colour": "blue"}')
    assert read_record(path, RankProgress) == PROGRESS


def test_a_disk_error_costs_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A file where the folder should be: mkdir fails, as on a full or read-only disk, also for root.
    (tmp_path / "progress").write_text("")
    file = RecordFile(progress_file(tmp_path, 0))
    file.write(PROGRESS)
    file.write(PROGRESS)
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_a_submission_keeps_the_command_that_made_it(tmp_path: Path) -> None:
    record_submission(tmp_path, ["7", "8"], ["dskd", "submit", "my run.toml"], submitted=5.0)
    submission = read_record(tmp_path / SUBMISSION_FILE, Submission)
    assert submission is not None
    assert (submission.job_ids, submission.submitted) == (["7", "8"], 5.0)
    assert (submission.command, submission.cwd) == ("dskd submit 'my run.toml'", str(Path.cwd()))


def test_ends_are_recorded_per_process(tmp_path: Path) -> None:
    record_end(tmp_path, "student", 1, exit_code=1, message="the disk is full")
    record_end(tmp_path, "launch", 0, exit_code=247, message="SIGKILL ended it", pid=5)
    ends = read_records(tmp_path, f"{ENDS_FOLDER}/*.json", End)
    assert list(ends) == [end_file(tmp_path, "launch", 0), end_file(tmp_path, "student", 1)]
    launch, student = ends.values()
    assert (launch.exit_code, launch.pid) == (247, 5)
    assert (student.exit_code, student.message) == (1, "the disk is full")

"""How a process ended is recorded, unless it ended for another one or never owned the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_ds.errors import (
    DskdError,
    ExitCode,
    InputError,
    NoTeacherError,
    OtherRankError,
    RunInUseError,
)
from dskd_ds.observe.ends import recorded_end
from dskd_ds.observe.run_files import End, RoleName, end_file, read_record


def end_of(run_dir: Path, error: Exception | None, role: RoleName, rank: int) -> End | None:
    """Return the record that a process leaves which ends with this error, or without one."""
    if error is None:
        with recorded_end(run_dir, role, rank):
            pass
    else:
        with pytest.raises(type(error)), recorded_end(run_dir, role, rank):
            raise error
    return read_record(end_file(run_dir, role, rank), End)


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (InputError("a key is wrong"), ExitCode.WRONG_INPUT),
        (NoTeacherError("no teacher came"), ExitCode.NO_TEACHER),
        (DskdError("something failed"), ExitCode.FAILED),
    ],
)
def test_an_error_is_recorded_with_its_exit_code(
    tmp_path: Path, error: DskdError, exit_code: ExitCode
) -> None:
    end = end_of(tmp_path, error, "teacher", 3)
    assert end is not None
    assert (end.role, end.rank, end.exit_code) == ("teacher", 3, exit_code)
    assert end.message == str(error)


def test_a_bug_is_recorded_with_its_place(tmp_path: Path) -> None:
    end = end_of(tmp_path, KeyError("no such key"), "student", 1)
    assert end is not None
    assert end.exit_code == ExitCode.FAILED
    assert end.message.startswith("KeyError: 'no such key' (")
    assert "test_ends.py:" in end.message


@pytest.mark.parametrize(
    "error", [OtherRankError(ExitCode.NO_TEACHER), RunInUseError("another launch is using it")]
)
def test_a_rank_that_ends_for_another_one_leaves_no_record(
    tmp_path: Path, error: DskdError
) -> None:
    assert end_of(tmp_path, error, "student", 0) is None
    assert list(tmp_path.iterdir()) == []


def test_an_error_creates_no_run_directory(tmp_path: Path) -> None:
    assert end_of(tmp_path / "missing", InputError("a key is wrong"), "student", 0) is None
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize(
    ("role", "rank", "is_recorded"),
    [("student", 0, True), ("student", 1, False), ("teacher", 0, False)],
)
def test_student_0_records_the_success(
    tmp_path: Path, role: RoleName, rank: int, is_recorded: bool
) -> None:
    end = end_of(tmp_path, None, role, rank)
    assert (end is not None) == is_recorded
    assert end is None or end.exit_code == ExitCode.DONE

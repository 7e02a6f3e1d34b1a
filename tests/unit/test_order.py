"""Long files of tests come first."""

from __future__ import annotations

from pathlib import Path

from tests.order import LONGEST_FIRST, place_of

PROCESSES = Path("tests/processes")


def test_long_files_come_before_other_launches_and_those_before_unit_tests() -> None:
    files = [
        Path("tests/unit/student/test_verdict.py"),  # the name of a long file elsewhere
        PROCESSES / "test_warm.py",
        PROCESSES / LONGEST_FIRST[1],
        PROCESSES / LONGEST_FIRST[0],
    ]
    assert sorted(files, key=place_of) == files[::-1]


def test_every_file_of_the_list_exists() -> None:
    assert [name for name in LONGEST_FIRST if not (PROCESSES / name).is_file()] == []

"""Long files of tests come first."""

from __future__ import annotations

from pathlib import Path

from tests.order import FOLDERS, LONGEST_FIRST, place_of

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
    existing = {path.name for folder in FOLDERS for path in Path("tests", folder).iterdir()}
    assert set(LONGEST_FIRST) <= existing

"""Teachers that end because their GPU or a rank is lost: what they computed is not refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dskd_ds.errors import LinkError
from dskd_ds.link import StudentLink, TeacherLink
from tests.unit.link.test_link import ARRAYS, QUICK, WANTED, hello, serve


@pytest.fixture
def student(tmp_path: Path) -> Iterator[StudentLink]:
    link = StudentLink(tmp_path, 0, QUICK, 9, 4)
    yield link
    link.close()


def break_down(run_dir: Path, name: str) -> None:
    """Let a teacher take a request, lose its GPU and leave."""
    teacher = TeacherLink(run_dir, QUICK, hello(name), num_students=1)
    work = teacher.next_request()
    assert work is not None
    teacher.give_back(work, "its GPU failed")
    teacher.close()


def test_what_the_only_teacher_gives_back_waits_for_the_teacher_started_again(
    tmp_path: Path, student: StudentLink, capfd: pytest.CaptureFixture[str]
) -> None:
    future = student.submit(ARRAYS, WANTED)
    break_down(tmp_path, "first")
    again = TeacherLink(tmp_path, QUICK, hello("again"), num_students=1)
    serve(again, 5)
    assert future.result(20).teacher == "again"
    said = "teacher first broke down: its GPU failed; 1 requests go to another"
    assert said in capfd.readouterr().err
    again.close()


def test_a_request_that_breaks_down_every_teacher_fails_and_says_so(
    tmp_path: Path, student: StudentLink
) -> None:
    future = student.submit(ARRAYS, WANTED)
    for name in ("first", "second", "third"):
        assert not future.done()
        break_down(tmp_path, name)
    expected = r"3 teachers broke down while .*teacher third: its GPU failed\.\n  if the reasons"
    with pytest.raises(LinkError, match=expected):
        future.result(20)

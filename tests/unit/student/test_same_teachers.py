"""Students that learn from different teachers are noticed when they meet them."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from dskd_ds.errors import InputError
from dskd_ds.student import same_teachers
from dskd_ds.student.loop import compare_teachers
from dskd_ds.student.same_teachers import TeacherComparison, refuse_different


def test_equal_teachers_pass() -> None:
    refuse_different([["bf16", "code"], ["bf16", None], [None, "code"]])
    refuse_different([[], []])  # no teacher at all


def test_the_message_names_students_and_what_differs() -> None:
    with pytest.raises(InputError) as caught:
        refuse_different([["a", "bf16"], ["a", "f32"], ["a", "bf16"]])
    message = str(caught.value)
    assert "students 0, 2: bf16" in message
    assert "students 1: f32" in message


def test_teachers_are_compared_again_when_a_rank_meets_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other_rank: list[str | None] = ["bf16", None]
    monkeypatch.setattr(same_teachers, "all_gather_values", lambda own: [own, other_rank])
    monkeypatch.setattr(same_teachers, "run_on_rank_0", lambda task, *args: task(*args))
    comparison = TeacherComparison()
    assert not comparison.is_due([None, None])
    assert comparison.is_due(["bf16", None])
    comparison.compare(["bf16", None])
    assert not comparison.is_due(["bf16", None])
    # The second teacher came late, and the other rank met one of another format.
    assert comparison.is_due(["bf16", "code f32"])
    other_rank = ["bf16", "code bf16"]
    with pytest.raises(InputError, match="code f32"):
        comparison.compare(["bf16", "code f32"])


@pytest.mark.parametrize(("num_done", "num_saves"), [(0, 0), (5, 1)])
def test_ranks_save_before_they_end_for_different_teachers(num_done: int, num_saves: int) -> None:
    """Before the first step they do not: a checkpoint would hold the teacher's settings fast."""
    training = Mock(num_done=num_done)
    training.teachers.compare.side_effect = InputError("the students learn from different teachers")
    with pytest.raises(InputError):
        compare_teachers(training)
    assert training.save_or_warn.call_count == num_saves

"""Students that learn from different teachers are noticed at the first step."""

from __future__ import annotations

import pytest

from dskd_ds.errors import InputError
from dskd_ds.student.same_teachers import refuse_different


def test_equal_teachers_pass() -> None:
    refuse_different([["bf16", "code"], ["bf16", None], [None, "code"]])
    refuse_different([[], []])  # no teacher at all


def test_the_message_names_students_and_what_differs() -> None:
    with pytest.raises(InputError) as caught:
        refuse_different([["a", "bf16"], ["a", "f32"], ["a", "bf16"]])
    message = str(caught.value)
    assert "students 0, 2: bf16" in message
    assert "students 1: f32" in message

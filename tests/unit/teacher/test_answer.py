"""The teacher's answers: the same request is answered alike, and an invalid request is refused."""

from __future__ import annotations

import numpy as np
import pytest

from dskd_ds.models.frozen import FrozenModel
from dskd_ds.teacher.answer import answer
from tests.unit.conftest import T, V
from tests.unit.signals.known_request import WANTED, known_request


def test_the_same_request_is_drawn_alike_and_another_is_not(teacher: FrozenModel) -> None:
    arrays = known_request("sampled").arrays
    first, second = answer(teacher, arrays, WANTED), answer(teacher, arrays, WANTED)
    assert all((first[name] == second[name]).all() for name in first)
    other = answer(teacher, arrays, WANTED.model_copy(update={"draw_seed": 4}))
    assert other["draw_ids"].tolist() != first["draw_ids"].tolist()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("top_k_positions", [3, 3], "do not ascend"),
        ("draw_positions", [T], "outside"),
        ("input_ids", [[V] * T], "outside"),
        ("position_ids", [[0] * 3], "differ in shape"),
        ("position_ids", [[-1] * T], r"position_ids has values outside 0\.\.39"),
        ("position_ids", [[T] * T], r"position_ids has values outside 0\.\.39"),
    ],
)
def test_an_invalid_request_is_refused(
    teacher: FrozenModel, name: str, value: list[int], message: str
) -> None:
    arrays = known_request("topk").arrays | {name: np.array(value, np.int32)}
    with pytest.raises(ValueError, match=message):
        answer(teacher, arrays, WANTED)

"""Requests for senses that this teacher refuses, and the key by which both sides compare senses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dskd_ds.models.frozen import FrozenModel
from dskd_ds.senses.choose.on_teacher import TeacherSenses
from dskd_ds.senses.choose.retrieve import DECIDING, SenseRetriever
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.spec.loss import LossSpec
from dskd_ds.teacher.answer import answer
from tests.unit.conftest import V, dictionary_in, senses
from tests.unit.teacher.sense_requests import WEIGHTED, batch, on_teacher, sense_request


def test_a_teacher_with_other_senses_refuses(
    dictionary: SenseDictionary, teacher: FrozenModel, tmp_path: Path
) -> None:
    students = SenseRetriever(dictionary, senses(), WEIGHTED, 0)
    request = sense_request(batch(), "topk", students.wanted)
    other = on_teacher(dictionary_in(tmp_path / "other", seed=1), senses())
    key, other_key = students.wanted.key, other.wanted.key
    assert other_key.split(", ")[1] == key.split(", ")[1]
    message = f"the student's senses are {key}, but this teacher's are {other_key}"
    with pytest.raises(ValueError, match=message):
        answer(teacher, request.arrays, request.wanted, TeacherSenses(other))
    fewer = TeacherSenses(on_teacher(dictionary, senses(kappa=3)))
    with pytest.raises(ValueError, match="this teacher's are dictionary"):
        answer(teacher, request.arrays, request.wanted, fewer)
    with pytest.raises(ValueError, match=r'this teacher has none: .*retrieve_on = "student"'):
        answer(teacher, request.arrays, request.wanted)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("targets", lambda a: a[:, 1:], "do not fit input_ids"),
        ("targets", lambda a: a * 0 + V, "neither -100 nor within"),
        ("targets", lambda a: a * 0 - 1, "neither -100 nor within"),
        ("sample_keys", lambda a: a[1:], "do not fit input_ids"),
        ("sample_keys", lambda a: a - 100, "non-negative"),
    ],
)
def test_a_request_with_invalid_senses_is_refused(
    dictionary: SenseDictionary, teacher: FrozenModel, name: str, change: Any, message: str
) -> None:
    retriever = on_teacher(dictionary, senses())
    request = sense_request(batch(), "topk", retriever.wanted)
    answer(teacher, request.arrays, request.wanted, TeacherSenses(retriever))
    invalid = request.arrays | {name: change(request.arrays[name])}
    with pytest.raises(ValueError, match=message):
        answer(teacher, invalid, request.wanted, TeacherSenses(retriever))


def test_whatever_decides_the_choice_is_in_the_key(dictionary: SenseDictionary) -> None:
    def key(seed: int = 0, loss: LossSpec = WEIGHTED, **settings: Any) -> str:
        return SenseRetriever(dictionary, senses(**settings), loss, seed).wanted.key

    others: dict[str, Any] = {
        "candidates": "lexical",
        "kappa": 9,
        "num_related_words": 9,
        "num_neighbours": 9,
        "min_positions": 9,
        "min_teacher_probability": 0.9,
        "position_fraction": 0.9,
        "position_rounding": "down",
        "positions": "independent",
        "own_in_pull": "with_synonyms",
        "own_in_push": "with_antonyms",
        "index_search_effort": 99,
    }
    assert set(others) == set(DECIDING)
    keys = [
        key(),
        key(seed=1),
        key(loss=LossSpec()),
        key(loss=WEIGHTED.model_copy(update={"shuffled_senses": True})),
        *(key(**{name: value}) for name, value in others.items()),
    ]
    assert len(set(keys)) == len(keys)
    assert key(local_dir="/elsewhere", retrieve_on="teacher", num_senses=3) == keys[0]

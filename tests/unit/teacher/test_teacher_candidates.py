"""The teacher chooses the candidates that a student would have chosen from unrounded states."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dskd_ds.data.batches import IGNORE
from dskd_ds.link import codec
from dskd_ds.link.messages import Reply
from dskd_ds.losses.senses_at_layer import SenseCandidates, TermSenses
from dskd_ds.models.captured import captured_states
from dskd_ds.models.frozen import FrozenModel
from dskd_ds.senses.choose.at_layer import DECIDING, DECIDING_OF_TERM
from dskd_ds.senses.choose.on_teacher import NO_SENSES
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.signals.reply import HEADER_BYTES, most_reply_bytes
from dskd_ds.teacher.answer import answer, compute
from dskd_ds.teacher.group_channel import SharedRequest
from tests.unit.senses.choose import small
from tests.unit.senses.choose.small import V
from tests.unit.teacher.candidate_requests import (
    LAYER,
    layered_teacher,
    learned,
    on_teacher,
    reply_to,
    run_of,
    student_of,
    term_retriever,
)


@pytest.fixture(scope="module")
def teacher() -> FrozenModel:
    return layered_teacher()


@pytest.fixture(scope="module")
def dictionary(tmp_path_factory: pytest.TempPathFactory) -> SenseDictionary:
    return small.dictionary_in(tmp_path_factory.mktemp("candidates") / "senses", layer=LAYER)


def exact_states(teacher: FrozenModel, layer: int = LAYER) -> Tensor:
    """Return the teacher's unrounded states [N, D] where the small batch has a target."""
    read = small.batch()
    with captured_states(teacher.trunk, [layer]) as captured:
        teacher.hidden_states(read.input_ids, read.position_ids)
    return captured[layer].flatten(0, 1)[read.supervised]


def assert_same(found: TermSenses | None, expected: TermSenses | None) -> None:
    """Compare bit for bit."""
    assert found is not None
    assert expected is not None
    for part in ("candidates", "senses"):
        mine, theirs = getattr(found, part), getattr(expected, part)
        assert (mine is None) == (theirs is None)
        for field in fields(mine) if mine is not None else ():
            assert torch.equal(getattr(mine, field.name), getattr(theirs, field.name)), field.name
    if expected.smoothed is not None:
        assert found.smoothed is not None
        assert torch.equal(found.smoothed, expected.smoothed)


@pytest.mark.parametrize("candidates", ["lexical", "neighbours", "hybrid"])
@pytest.mark.parametrize(
    "keys",
    [{}, {"attribution": "predicts"}, {"shuffled_senses": True}],
    ids=["on", "predicts", "shuffled"],
)
def test_the_student_gets_what_it_would_have_chosen(
    dictionary: SenseDictionary, teacher: FrozenModel, candidates: str, keys: dict[str, Any]
) -> None:
    """From float32 states, to the last bit. No states are sent, and the student has no index."""
    spec = run_of(("posterior", keys), candidates=candidates, num_related_words=1)
    student = student_of(dictionary, spec, has_index=False)
    assert student.wanted.layers == ()
    found = learned(student, teacher, on_teacher(dictionary, spec))
    assert found.layers is None
    choosing = term_retriever(dictionary, spec, spec.loss.terms[0])
    assert_same(found.terms[0], choosing.senses(small.batch(), exact_states(teacher)))
    assert found.terms[0] is not None
    chosen = found.terms[0].candidates
    assert isinstance(chosen, SenseCandidates)
    assert (chosen.mask & ~chosen.own).any()
    assert chosen.own.any()


def test_states_decide_before_they_are_rounded(
    dictionary: SenseDictionary, teacher: FrozenModel
) -> None:
    spec = run_of(("contrast", {}), candidates="hybrid")
    student = student_of(dictionary, spec, has_index=False)
    found = learned(student, teacher, on_teacher(dictionary, spec)).terms[0]
    rounded = exact_states(teacher).bfloat16().float()
    other = term_retriever(dictionary, spec, spec.loss.terms[0]).senses(small.batch(), rounded)
    assert found is not None
    assert found.candidates is not None
    assert other.candidates is not None
    assert not torch.equal(found.candidates.distances, other.candidates.distances)


def test_a_step_is_the_same_wherever_senses_are_chosen(dictionary: SenseDictionary) -> None:
    """All kinds, at two layers. The teacher's states are bfloat16, so the wire rounds nothing."""
    rounding = layered_teacher(torch.bfloat16)
    terms = (
        ("cosine", {"teacher_layer": 1}),
        ("posterior", {}),
        ("contrast", {}),
        ("sense", {}),
        ("mse", {"smoothing": 0.5}),
    )
    found = {}
    for where in ("student", "teacher"):
        spec = run_of(*terms, retrieve_on=where, candidates="hybrid")
        student = student_of(dictionary, spec, has_index=True)
        assert student.wanted.layers == (1, LAYER)  # `sense` and `mse` need states in any case
        # Two terms that differ in their kind alone share one set.
        assert len(student.wanted.candidates) == (where == "teacher")
        found[where] = learned(student, rounding, on_teacher(dictionary, spec))
    assert found["student"].layers is not None
    assert found["teacher"].layers is not None
    assert torch.equal(found["student"].layers, found["teacher"].layers)
    states = exact_states(rounding, layer=1)
    assert torch.equal(found["teacher"].layers, states[None])  # those of the cosine alone
    for mine, theirs in zip(found["teacher"].terms[1:], found["student"].terms[1:], strict=True):
        assert_same(mine, theirs)


def test_only_layers_whose_states_are_needed_travel(
    dictionary: SenseDictionary, teacher: FrozenModel
) -> None:
    terms = (("cosine", {"teacher_layer": 1}), ("posterior", {}), ("gram", {"teacher_layer": 3}))
    spec = run_of(*terms, candidates="lexical")
    student = student_of(dictionary, spec, has_index=False)
    assert student.wanted.layers == (1, 3)
    assert [asked.layer for asked in student.wanted.candidates] == [LAYER]
    found = learned(student, teacher, on_teacher(dictionary, spec))
    assert found.layers is not None
    expected = torch.stack([exact_states(teacher, layer) for layer in (1, 3)])
    assert torch.equal(found.layers, expected.bfloat16())


def test_a_batch_without_targets_has_no_candidates(
    dictionary: SenseDictionary, teacher: FrozenModel
) -> None:
    spec = run_of(("posterior", {}), candidates="hybrid")
    student = student_of(dictionary, spec, has_index=False)
    whole = small.batch()
    empty = replace(whole, targets=torch.full_like(whole.targets, IGNORE))
    (found,) = learned(student, teacher, on_teacher(dictionary, spec), empty).terms
    assert found is not None
    assert found.candidates is not None
    assert found.candidates.index.shape == (0, 1)


@pytest.mark.parametrize("candidates", ["lexical", "hybrid"])
def test_a_reply_has_no_more_bytes_than_its_request_reserves(
    dictionary: SenseDictionary, teacher: FrozenModel, candidates: str
) -> None:
    spec = run_of(
        ("posterior", {}), ("contrast", {"attribution": "predicts"}), candidates=candidates
    )
    student = student_of(dictionary, spec, has_index=False)
    request = student.request(small.batch())
    assert len(request.wanted.candidates) == 2
    arrays = reply_to(request, teacher, on_teacher(dictionary, spec))
    size = codec.num_bytes(codec.encode(Reply(request_id=0, forward_seconds=0.0), arrays))
    most = most_reply_bytes(request.wanted, student.shape(request))
    assert 0.6 * (most - HEADER_BYTES) < size <= most


def test_the_other_ranks_of_a_teacher_choose_nothing(
    dictionary: SenseDictionary, teacher: FrozenModel
) -> None:
    spec = run_of(("posterior", {}), candidates="lexical")
    request = student_of(dictionary, spec, has_index=False).request(small.batch())
    shared: list[SharedRequest] = []
    senses = on_teacher(dictionary, spec)
    compute(teacher, request.arrays, request.wanted, senses, share=shared.append)
    assert shared[0].wanted == request.wanted.model_copy(update={"candidates": ()})
    computed = compute(teacher, shared[0].arrays, shared[0].wanted)
    assert computed.asked is None
    assert not computed.term_states


def test_a_teacher_with_other_candidates_refuses(
    dictionary: SenseDictionary, teacher: FrozenModel, tmp_path: Path
) -> None:
    spec = run_of(("posterior", {}), candidates="lexical")
    request = student_of(dictionary, spec, has_index=False).request(small.batch())
    key = request.wanted.candidates[0].key
    other = on_teacher(small.dictionary_in(tmp_path / "other", layer=LAYER, seed=1), spec)
    (other_wanted,) = other.terms
    assert other_wanted.key.split(", ")[1] == key.split(", ")[1]
    message = f"are layer 2, {key}, but this teacher's are layer 2, {other_wanted.key}"
    with pytest.raises(ValueError, match=message):
        answer(teacher, request.arrays, request.wanted, other)
    fewer = on_teacher(dictionary, run_of(("posterior", {}), candidates="lexical", kappa=1))
    with pytest.raises(ValueError, match="the same dictionaries in"):
        answer(teacher, request.arrays, request.wanted, fewer)
    with pytest.raises(ValueError, match=r"this teacher's are none.*\n.*students' spec"):
        answer(teacher, request.arrays, request.wanted, NO_SENSES)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("targets", lambda a: a[:, 1:], "do not fit input_ids"),
        ("targets", lambda a: a * 0 + V, "neither -100 nor within"),
        ("sample_keys", lambda a: a[1:], "do not fit input_ids"),
        ("sample_keys", lambda a: a - 100, "non-negative"),
        ("input_ids", lambda a: a * 0 + V, "input_ids has values above 39"),
    ],
)
def test_a_request_with_invalid_senses_is_refused(
    dictionary: SenseDictionary, teacher: FrozenModel, name: str, change: Any, message: str
) -> None:
    spec = run_of(("posterior", {}), candidates="lexical")
    request = student_of(dictionary, spec, has_index=False).request(small.batch())
    senses = on_teacher(dictionary, spec)
    invalid = request.arrays | {name: change(request.arrays[name])}
    # The teacher's vocabulary may be larger than the dictionary's.
    larger = replace(teacher, vocab_size=V + 1)
    with pytest.raises(ValueError, match=message):
        answer(larger, invalid, request.wanted, senses)


def test_candidates_are_not_sent_block_by_block(
    dictionary: SenseDictionary, teacher: FrozenModel
) -> None:
    spec = run_of(("posterior", {}), candidates="lexical")
    request = student_of(dictionary, spec, has_index=False).request(small.batch())
    by_block = request.wanted.model_copy(update={"by_block": True})
    with pytest.raises(ValueError, match="not sent block by block"):
        answer(teacher, request.arrays, by_block, on_teacher(dictionary, spec))


def test_states_that_are_not_finite_are_named(dictionary: SenseDictionary) -> None:
    broken = layered_teacher()
    for weight in broken.trunk.layers[1].parameters():
        weight.data.fill_(np.nan)
    spec = run_of(("posterior", {}), candidates="lexical")
    request = student_of(dictionary, spec, has_index=False).request(small.batch())
    with pytest.raises(ValueError, match="states after layer 2 are not finite"):
        answer(broken, request.arrays, request.wanted, on_teacher(dictionary, spec))


def test_whatever_decides_the_choice_is_in_the_key(dictionary: SenseDictionary) -> None:
    def key(kind: str = "posterior", retrieve_on: str = "teacher", **keys: Any) -> str:
        settings = {name: keys.pop(name) for name in list(keys) if name in DECIDING}
        spec = run_of((kind, keys), retrieve_on=retrieve_on, **settings)
        return term_retriever(dictionary, spec, spec.loss.terms[0]).wanted.key

    others: dict[str, Any] = {
        "candidates": "neighbours",
        "kappa": 9,
        "num_related_words": 9,
        "num_neighbours": 9,
        "index_search_effort": 99,
        "attribution": "predicts",
        "shuffled_senses": True,
    }
    assert set(others) == {*DECIDING, *DECIDING_OF_TERM}
    keys = [key(), *(key(**{name: value}) for name, value in others.items())]
    assert len(set(keys)) == len(keys)
    assert key(kind="contrast", retrieve_on="student", temperature=2.0) == keys[0]

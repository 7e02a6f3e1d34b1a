"""The teacher chooses the senses that the student would have chosen from exact states."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dskd_ds.data.batches import places, read_batch
from dskd_ds.models.frozen import FrozenModel
from dskd_ds.senses.choose.on_teacher import TeacherSenses
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.senses.choose.selection import Selection
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.signals.parts.chosen import Chosen
from dskd_ds.signals.parts.top_k import take_top_k
from dskd_ds.spec.loss import LossSpec
from dskd_ds.spec.senses import SensesSpec
from dskd_ds.teacher.answer import answer, compute
from dskd_ds.teacher.group_channel import SharedRequest
from tests.unit.conftest import dictionary_in, senses
from tests.unit.student.test_feed import Text, feed_of
from tests.unit.teacher.sense_requests import (
    WEIGHTED,
    assert_equal,
    batch,
    on_teacher,
    received_reply,
    sense_request,
    spec_with_senses,
)


def states_at(teacher: FrozenModel, selection: Selection) -> torch.Tensor:
    """The teacher's unrounded states [P, D] at the sense positions of `batch()`."""
    read = batch()
    hidden = teacher.hidden_states(read.input_ids, read.position_ids).flatten(0, 1)
    return hidden[torch.from_numpy(selection.positions)]


SHUFFLED = WEIGHTED.model_copy(update={"shuffled_senses": True})


@pytest.mark.parametrize("kind", ["topk", "sampled", "exact"])
@pytest.mark.parametrize(
    ("settings", "loss"),
    [
        (senses(candidates="lexical"), WEIGHTED),
        (
            senses(candidates="lexical", positions="independent", own_in_push="with_antonyms"),
            WEIGHTED,
        ),
        (senses(candidates="neighbours"), WEIGHTED),
        (senses(), WEIGHTED),
        (senses(), SHUFFLED),
        (senses(kappa=150), WEIGHTED),
    ],
    ids=["lexical", "independent", "neighbours", "hybrid", "shuffled", "sets-of-hundreds"],
)
def test_the_student_gets_what_it_would_have_chosen(
    dictionary: SenseDictionary,
    teacher: FrozenModel,
    settings: SensesSpec,
    loss: LossSpec,
    kind: str,
) -> None:
    """The result from unrounded states, to the last bit; and no states are sent for it."""
    teachers = on_teacher(dictionary, settings, loss)
    students = SenseRetriever(dictionary, settings, loss, 0)
    selection = students.select(batch())
    request = sense_request(batch(), kind, students.wanted)
    reply_arrays = answer(teacher, request.arrays, request.wanted, TeacherSenses(teachers))
    reply = received_reply(reply_arrays, request, len(selection))
    hidden = states_at(teacher, selection)
    top_k = take_top_k(teacher.logits(hidden), 4, (2.0, 1.0))
    expected = teachers.targets(selection, hidden, top_k, 1)
    assert_equal(students.pack(selection, reply.chosen), expected)
    assert len(reply.hidden) == (len(batch().supervised) if kind == "exact" else 0)
    assert len(reply.top_k.ids) == (len(batch().supervised) if kind == "topk" else 0)
    assert expected.has_pull.any()
    assert expected.push_mask.any()
    assert 0 < expected.weights.min() < expected.weights.max() <= 1


def test_states_decide_before_they_are_rounded(teacher: FrozenModel, tmp_path: Path) -> None:
    """With so many senses, rounded states would choose others."""
    settings = senses(candidates="lexical", kappa=20)
    retriever = on_teacher(dictionary_in(tmp_path / "dense", per_token=100), settings)
    selection = retriever.select(batch())
    request = sense_request(batch(), "topk", retriever.wanted)
    reply_arrays = answer(teacher, request.arrays, request.wanted, TeacherSenses(retriever))
    chosen = received_reply(reply_arrays, request, len(selection)).chosen
    hidden = states_at(teacher, selection)
    exact = retriever.lexical(selection, hidden)[0].rows
    rounded = retriever.lexical(selection, hidden.bfloat16().float())[0].rows
    assert (chosen.pull.rows == exact).all()
    assert (chosen.pull.rows != rounded).any()


def test_a_step_is_the_same_wherever_senses_are_chosen(
    dictionary: SenseDictionary, teacher: FrozenModel, tmp_path: Path
) -> None:
    """Over the real link; the teacher's states are bfloat16, so the wire rounds nothing."""
    forward = teacher.trunk.forward

    def rounded_forward(**arguments: Any) -> SimpleNamespace:
        hidden = forward(**arguments).last_hidden_state
        return SimpleNamespace(last_hidden_state=hidden.bfloat16().float())

    teacher.trunk.forward = rounded_forward
    steps = {}
    for where in ("student", "teacher"):
        settings = senses(retrieve_on=where)
        spec = spec_with_senses("topk", settings)
        searching = on_teacher(dictionary, settings, spec.loss)
        students, teachers = searching, None
        if where == "teacher":
            students = SenseRetriever(dictionary, settings, spec.loss, spec.seed)
            teachers = searching
        with feed_of(spec, teacher, tmp_path / where, 0, students, teachers) as feed:
            _, num_senses = feed.counts()
            steps[where] = feed.next()
        micro_batches = steps[where].micro_batches
        assert num_senses == sum(len(micro.senses.positions) for micro in micro_batches) > 0
        for number, micro in enumerate(micro_batches):
            expected = searching.select(read_batch(Text(), places(spec, 0, number, 0)))
            assert micro.senses.positions.tolist() == expected.positions.tolist()
    for by_student, by_teacher in zip(
        steps["student"].micro_batches, steps["teacher"].micro_batches, strict=True
    ):
        assert_equal(by_student.senses, by_teacher.senses)
        assert by_student.senses.coverage.sum() > 0


def test_senses_are_chosen_during_the_next_forward_pass(
    dictionary: SenseDictionary,
    teacher: FrozenModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first choice waits for the second forward pass to begin, which only works in parallel."""
    spec = spec_with_senses("topk", senses(retrieve_on="teacher"))
    students = SenseRetriever(dictionary, spec.senses, spec.loss, spec.seed)
    teachers = on_teacher(dictionary, spec.senses, spec.loss)
    forward, choose = teacher.trunk.forward, teachers.choose
    num_forwards = 0
    second_began = threading.Event()
    saw_second: list[bool] = []

    def counted_forward(**arguments: Any) -> Any:
        nonlocal num_forwards
        num_forwards += 1
        if num_forwards == 2:
            second_began.set()
        return forward(**arguments)

    def waiting_choose(*arguments: Any) -> Chosen:
        saw_second.append(second_began.wait(20))
        return choose(*arguments)

    teacher.trunk.forward = counted_forward
    monkeypatch.setattr(teachers, "choose", waiting_choose)
    with feed_of(spec, teacher, tmp_path, 0, students, teachers) as feed:
        step = feed.next()
    assert saw_second[0]
    assert sum(len(micro.senses.positions) for micro in step.micro_batches) > 0


def test_the_other_ranks_of_a_teacher_take_the_top_k_at_sense_positions_too(
    dictionary: SenseDictionary, teacher: FrozenModel
) -> None:
    """They choose no senses, but must make the first rank's collective calls."""
    retriever = on_teacher(dictionary, senses())
    request = sense_request(batch(), "sampled", retriever.wanted)
    shared: list[SharedRequest] = []
    compute(teacher, request.arrays, request.wanted, TeacherSenses(retriever), share=shared.append)
    selection = retriever.select(batch())
    assert len(selection)
    expected = np.unique([*request.arrays["top_k_positions"], *selection.positions])
    assert shared[0].arrays["top_k_positions"].tolist() == expected.tolist()
    computed = compute(teacher, shared[0].arrays, shared[0].wanted)
    assert computed.asked is None
    assert len(computed.arrays["top_k_ids"]) == len(expected)

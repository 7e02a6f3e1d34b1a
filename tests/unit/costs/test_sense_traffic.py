"""The bytes that the plan promises for chosen senses, against what a teacher sends."""

from __future__ import annotations

import pytest

from dskd_ds.costs.dictionary_size import MANY_ROWS
from dskd_ds.costs.traffic import signal_bytes
from dskd_ds.models.frozen import FrozenModel
from dskd_ds.senses.choose.on_teacher import TeacherSenses
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.teacher.answer import answer
from tests.unit.conftest import D, V, senses
from tests.unit.teacher.sense_requests import (
    NUM_ROWS,
    batch,
    on_teacher,
    sense_request,
    spec_with_senses,
)


@pytest.mark.parametrize("candidates", ["lexical", "neighbours", "hybrid"])
@pytest.mark.parametrize("kind", ["topk", "sampled"])
def test_the_plan_counts_at_least_what_is_sent(
    dictionary: SenseDictionary, teacher: FrozenModel, candidates: str, kind: str
) -> None:
    """Bytes of chosen senses: a bound, which full sets reach."""
    settings = senses(candidates=candidates, retrieve_on="teacher")
    spec = spec_with_senses(kind, settings)
    retriever = on_teacher(dictionary, settings)
    num_tokens = batch().input_ids.numel()
    share = len(retriever.select(batch())) / num_tokens
    promised = signal_bytes(spec, V, D, share, NUM_ROWS)

    request = sense_request(batch(), kind, retriever.wanted)
    reply = answer(teacher, request.arrays, request.wanted, TeacherSenses(retriever))
    sense_arrays = [
        array for name, array in reply.items() if name.startswith(("sense_", "pull_", "push_"))
    ]
    sent = sum(array.nbytes for array in sense_arrays) / num_tokens
    assert 0.6 * promised.senses < sent <= promised.senses
    assert promised.hidden == 0
    assert (promised.top_k > 0) == (kind == "topk")

    request_bytes = sum(array.nbytes for array in request.arrays.values())
    difference = request_bytes - promised.request * num_tokens
    assert -4 * 2 * 3 <= difference <= 16 * 3
    assert signal_bytes(spec, V, D, share, MANY_ROWS).senses > promised.senses

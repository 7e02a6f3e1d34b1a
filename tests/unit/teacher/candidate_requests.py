"""Runs whose teacher chooses senses for losses below the head, and the exchange of one request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from dskd_ds.data.batches import Batch
from dskd_ds.link import codec
from dskd_ds.link.messages import Array, Message
from dskd_ds.link.messages import Reply as ReplyMessage
from dskd_ds.link.messages import Request as RequestMessage
from dskd_ds.models.frozen import FrozenModel
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.senses.choose.at_layer import TermRetriever
from dskd_ds.senses.choose.on_teacher import TeacherSenses
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.spec import RunSpec
from dskd_ds.spec.terms import SENSE_KINDS, LayerTermSpec
from dskd_ds.student.replies.requests import RequestBuilder, TeacherRequest
from dskd_ds.student.terms.layers import LayerTerm
from dskd_ds.teacher.answer import answer
from tests.unit.senses.choose import small
from tests.unit.senses.choose.small import D, V
from tests.unit.small_llama import small_llama
from tests.unit.student.test_feed import spec_of

LAYER = 2
"""The teacher's layer whose senses the dictionaries of these tests hold."""
NUM_LAYERS = 3
Term = tuple[str, dict[str, Any]]
"""The kind of a term, and further keys."""


def layered_teacher(dtype: torch.dtype = torch.float32) -> FrozenModel:
    """Return a teacher of three layers, whose vocabulary and size the small dictionary has."""
    model = small_llama(V, D, num_layers=NUM_LAYERS)
    return replace(model, trunk=model.trunk.to(dtype), head=model.head.to(dtype))


def run_of(*terms: Term, retrieve_on: str = "teacher", **settings: Any) -> RunSpec:
    """Return a run with these losses below the head and no other sense term."""
    spec = spec_of("topk")
    specs = tuple(_term(kind, keys) for kind, keys in terms)
    loss = spec.loss.model_copy(update={"terms": specs, "sense_weight": 0.0, "top_k": 4})
    senses = small.spec(retrieve_on=retrieve_on, num_senses=small.PER_TOKEN, **settings)
    return spec.model_copy(update={"loss": loss, "senses": senses})


def _term(kind: str, keys: dict[str, Any]) -> LayerTermSpec:
    common = {"kind": kind, "student_layer": 1, "teacher_layer": LAYER, "weight": 1.0}
    needs_senses = kind in SENSE_KINDS or "smoothing" in keys
    folder = {"dictionary": "-"} if needs_senses else {}
    return LayerTermSpec.model_validate(common | folder | keys)


def term_retriever(
    dictionary: SenseDictionary, spec: RunSpec, term: LayerTermSpec, has_index: bool = True
) -> TermRetriever:
    """Return what finds the senses of a term."""
    picker = small.retriever(dictionary, spec.senses, spec.loss)
    if not has_index:
        picker = SenseRetriever(dictionary, spec.senses, spec.loss, seed=0)
    return TermRetriever(picker, term, margin=1.0)


def on_teacher(dictionary: SenseDictionary, spec: RunSpec) -> TeacherSenses:
    """Return what a teacher chooses senses with."""
    found = [
        term_retriever(dictionary, spec, term)
        for term in spec.loss.terms
        if spec.is_chosen_by_teacher(term)
    ]
    return TeacherSenses(terms={retriever.wanted: retriever for retriever in found})


def student_of(dictionary: SenseDictionary, spec: RunSpec, has_index: bool) -> RequestBuilder:
    """Return what writes the requests of a student and reads the replies."""
    terms = spec.loss.terms
    return RequestBuilder(
        spec,
        None,
        V,
        D,
        terms=[LayerTerm(term, term.teacher_layer or LAYER) for term in terms],
        term_retrievers=[
            term_retriever(dictionary, spec, term, has_index) if term.needs_senses else None
            for term in terms
        ],
    )


def received(message: Message, arrays: dict[str, Array]) -> tuple[Message, dict[str, Array]]:
    """Encode and decode a message."""
    frames: Sequence[bytes | memoryview] = codec.encode(message, arrays)
    return codec.decode([bytes(frame) for frame in frames], "peer")


def reply_to(
    request: TeacherRequest, teacher: FrozenModel, senses: TeacherSenses
) -> dict[str, Array]:
    """Return the arrays of the reply to a request; both have been on the wire."""
    message, arrays = received(RequestMessage(request_id=0, wanted=request.wanted), request.arrays)
    assert isinstance(message, RequestMessage)
    reply = answer(teacher, arrays, message.wanted, senses)
    return received(ReplyMessage(request_id=0, forward_seconds=0.0), reply)[1]


def learned(
    student: RequestBuilder,
    teacher: FrozenModel,
    senses: TeacherSenses,
    batch: Batch | None = None,
) -> TeacherTargets:
    """Return what the loss learns from for a batch, by default the small one."""
    request = student.request(batch or small.batch())
    reply = student.parts(request, reply_to(request, teacher, senses))
    return student.targets(request, reply)[0]

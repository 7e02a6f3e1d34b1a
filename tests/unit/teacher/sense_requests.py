"""Requests that want the teacher to choose senses, and both sides' retrievers for them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch

from dskd_ds.data.batches import Batch, read_batch
from dskd_ds.link import codec
from dskd_ds.link.messages import Array, Reply, Request, SensesWanted, Wanted
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.index.graph import knn, load_graph, load_projection
from dskd_ds.signals.kind import Part, signal_kind
from dskd_ds.signals.reply import ReplyParts, ReplyShape, read_reply
from dskd_ds.spec import RunSpec
from dskd_ds.spec.loss import LossSpec
from dskd_ds.spec.senses import SensesSpec
from dskd_ds.student.replies.requests import selection_arrays
from tests.unit.conftest import NUM_SPANS, PER_TOKEN, D, V
from tests.unit.student.test_feed import Text, spec_of

NUM_ROWS = (V + NUM_SPANS) * PER_TOKEN
"""Senses in the fixture `dictionary`."""
WEIGHTED = LossSpec(sense_weighting="teacher_probability")


def on_teacher(
    dictionary: SenseDictionary, settings: SensesSpec, loss: LossSpec = WEIGHTED, seed: int = 0
) -> SenseRetriever:
    """The retriever of a teacher, which searches the index itself."""
    graph, projection = load_graph(dictionary), load_projection(dictionary)
    return SenseRetriever(
        dictionary, settings, loss, seed, projection, lambda q, n: knn(graph, q, n)
    )


def spec_with_senses(kind: str, settings: SensesSpec) -> RunSpec:
    """A run of this signal kind with a sense term."""
    spec = spec_of(kind)
    loss = spec.loss.model_copy(update={"sense_weight": 0.5})
    return spec.model_copy(update={"senses": settings, "loss": loss})


def batch() -> Batch:
    return read_batch(Text(), range(5, 8))


@dataclass(frozen=True)
class SenseRequest:
    """A request as the teacher receives it."""

    arrays: dict[str, Array]
    wanted: Wanted
    positions: dict[Part, np.ndarray]
    """The positions of each part of the reply."""


def sense_request(batch: Batch, kind: str, wanted: SensesWanted) -> SenseRequest:
    """Encode and decode a request that wants the teacher to choose senses."""
    supervised = batch.supervised.numpy()
    positions = signal_kind(LossSpec(signal=kind)).positions(supervised, supervised[:0])
    message = Request(
        request_id=0,
        wanted=Wanted(
            top_k=4,
            temperatures=(2.0, 1.0),
            num_draws=20,
            draw_temperature=1.0,
            draw_seed=3,
            hidden_format="bfloat16",
            senses=wanted,
        ),
    )
    arrays = {
        "input_ids": batch.input_ids.numpy().astype(np.int32),
        "position_ids": batch.position_ids.numpy().astype(np.int32),
        **{f"{name}_positions": rows.astype(np.int32) for name, rows in positions.items()},
        "layer_positions": np.zeros(0, np.int32),
        **selection_arrays(batch),
    }
    frames = codec.encode(message, arrays)
    received, received_arrays = codec.decode([bytes(frame) for frame in frames], "student")
    assert isinstance(received, Request)
    return SenseRequest(received_arrays, received.wanted, positions)


def received_reply(arrays: dict[str, Array], request: SenseRequest, num_chosen: int) -> ReplyParts:
    """Encode, decode and read the reply to a request. num_chosen: positions that get senses."""
    frames = codec.encode(Reply(request_id=0, forward_seconds=0.0), arrays)
    received = codec.decode([bytes(frame) for frame in frames], "teacher")[1]
    num_rows = {name: len(rows) for name, rows in request.positions.items()}
    shape = ReplyShape(V, D, num_rows["top_k"], num_rows["draw"], num_rows["hidden"], num_chosen)
    return read_reply(received, request.wanted, shape)


def assert_equal(found: SenseTargets, expected: SenseTargets) -> None:
    for field in fields(SenseTargets):
        assert torch.equal(getattr(found, field.name), getattr(expected, field.name)), field.name

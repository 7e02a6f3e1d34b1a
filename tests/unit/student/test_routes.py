"""Micro-batches divided by teacher: each gets its own rows, and the joined targets are in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dskd_ds.data.batches import Sample
from dskd_ds.data.mixture import WeightedBlocks, WeightedSource
from dskd_ds.losses.distributions import TopK
from dskd_ds.models.frozen import FrozenModel
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.spec import RunSpec
from dskd_ds.student.replies.feed import Feed, MicroBatch
from dskd_ds.student.replies.requests import RequestBuilder
from dskd_ds.student.replies.routes import Route, sources_by_teacher
from tests.unit.conftest import D, V
from tests.unit.signal_cache.world import DirectLink, Text, spec_of
from tests.unit.small_llama import small_llama

STEPS = 4
RouteOf = Callable[[Sample], int]


def spec_with(signal: str, *changes: str) -> RunSpec:
    """Two rows per micro-batch; by block, so that a reply does not depend on its neighbours."""
    return spec_of(
        signal,
        "teacher.source=live",
        "teacher.block_by_block=true",
        "train.micro_batch_blocks=2",
        *changes,
    )


def other_teacher(hidden_size: int) -> FrozenModel:
    """A teacher that knows another text: its head is turned by a token."""
    teacher = small_llama(V, hidden_size)
    return replace(teacher, head=teacher.head.roll(1, dims=0))


def trained_on(
    spec: RunSpec,
    links: list[DirectLink],
    route_of: RouteOf | None = None,
    retriever: SenseRetriever | None = None,
    weight: float = 1.0,
) -> list[MicroBatch]:
    """Return the micro-batches of some steps. links: of [teacher] and, after it, a further one."""
    own = RequestBuilder(spec, retriever, V, D)
    further = [
        Route(link, link, RequestBuilder(spec, None, V, link.teacher.hidden_size), None, weight)
        for link in links[1:]
    ]
    feed = Feed(
        spec,
        rank=0,
        source=Text(),
        link=links[0],
        requests=own,
        self_test=None,
        device=torch.device("cpu"),
        steps=range(STEPS),
        further=further,
        route_of=route_of,
    )
    try:
        found: list[MicroBatch] = []
        for _ in range(STEPS):
            assert feed.counts()[0] > 0
            step = feed.next()
            assert step is not None
            found += step.micro_batches
        return found
    finally:
        feed.close()
        assert all(link.is_closed for link in links)


def ids_of(batch: MicroBatch) -> Tensor:
    """Return the tokens of the top k at each position."""
    assert isinstance(batch.teacher.signal, TopK)
    return batch.teacher.signal.ids


def tensors_of(part: Any) -> dict[str, Tensor]:
    """Return the tensors of a dataclass and of the dataclasses in it."""
    found: dict[str, Tensor] = {}
    for name, value in vars(part).items():
        if isinstance(value, Tensor):
            found[name] = value
        elif hasattr(value, "__dataclass_fields__"):
            found |= {f"{name}.{key}": tensor for key, tensor in tensors_of(value).items()}
    return found


@pytest.mark.parametrize("signal", ["topk", "sampled"])
def test_two_teachers_with_the_same_weights_are_as_one(signal: str) -> None:
    """Bit for bit, in every micro-batch: with rows of one teacher, of the other, and of both."""
    spec = spec_with(signal)
    teacher = small_llama(V, D)
    alone = trained_on(spec, [DirectLink(teacher)])
    links = [DirectLink(teacher), DirectLink(teacher)]
    routed = trained_on(spec, links, route_of=lambda sample: sample.block % 2)
    assert links[0].rows == links[1].rows == STEPS * 2
    mixtures = 0
    for one, both in zip(alone, routed, strict=True):
        kd_weights = both.teacher.kd_weights
        mixtures += kd_weights is not None
        # Whether there are several teachers shows in the weights only, which are 1.
        assert kd_weights is None or kd_weights.tolist() == [1.0] * len(both.teacher.positions)
        same = replace(both, teacher=replace(both.teacher, kd_weights=None))
        expected, found = tensors_of(one), tensors_of(same)
        assert list(expected) == list(found)
        for name, tensor in expected.items():
            width = min(tensor.shape[-1], found[name].shape[-1]) if tensor.dim() > 1 else None
            if width is not None:  # draws are padded with 0 to the widest of a reply
                assert not tensor[:, width:].any()
                assert not found[name][:, width:].any()
                tensor, found[name] = tensor[:, :width], found[name][:, :width]
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)
    assert 0 < mixtures < len(routed)


def test_each_row_learns_from_its_own_teacher_with_its_weight() -> None:
    """The further teacher has another hidden size."""
    spec = spec_with("topk")
    teachers = [small_llama(V, D), other_teacher(2 * D)]
    alone = trained_on(spec, [DirectLink(teachers[0])])
    links = [DirectLink(teacher) for teacher in teachers]
    routed = trained_on(spec, links, lambda sample: sample.block % 2, weight=2.5)
    source = Text()
    for number, (own, both) in enumerate(zip(alone, routed, strict=True)):
        rows = both.teacher.positions // both.input_ids.shape[1]
        further = torch.tensor([source.get(2 * number + int(row))[0].block % 2 for row in rows])
        weights = both.teacher.kd_weights
        if weights is None:
            assert not further.any()
            weights = torch.ones(len(rows))
        assert weights.tolist() == torch.where(further > 0, 2.5, 1.0).tolist()
        is_own = further == 0
        expected_ids, ids = ids_of(own), ids_of(both)
        assert torch.equal(ids[is_own], expected_ids[is_own])
        if (further > 0).any():
            assert not torch.equal(ids[further > 0], expected_ids[further > 0])


def test_the_sense_term_stays_with_the_rows_of_the_first_teacher(
    dictionary: SenseDictionary,
) -> None:
    spec = spec_with("topk", "loss.sense_weight=1")
    retriever = SenseRetriever(dictionary, spec.senses, spec.loss, spec.seed)
    teacher = small_llama(V, D)
    alone = trained_on(spec, [DirectLink(teacher)], retriever=retriever)
    links = [DirectLink(teacher), DirectLink(teacher)]
    routed = trained_on(spec, links, lambda sample: sample.block % 2, retriever)
    assert links[1].positions["hidden"] == 0
    source = Text()
    for number, (one, both) in enumerate(zip(alone, routed, strict=True)):
        width = both.input_ids.shape[1]
        is_own = [
            source.get(2 * number + position // width)[0].block % 2 == 0
            for position in one.senses.positions.tolist()
        ]
        assert torch.equal(both.senses.positions, one.senses.positions[is_own])
        assert torch.equal(both.senses.pull_mean, one.senses.pull_mean[is_own])
        assert both.teacher.positions.tolist() == sorted(both.teacher.positions.tolist())


def test_a_sample_goes_to_the_teacher_that_its_source_names() -> None:
    spec = spec_of(
        "topk",
        "teacher.source=live",
        'data.train=[{path="a", weight=1, teacher="b"}, {path="b", weight=2}]',
        'teachers=[{name="b", model="x"}]',
        "topology.num_teachers=2",
    )
    blocks: Any = [{"input_ids": [0]}] * 3
    sources = [WeightedSource(blocks, 3, weight) for weight in (1.0, 2.0)]
    mixed = WeightedBlocks(sources, seed=0)
    route_of = sources_by_teacher(spec, mixed)
    found = np.array([route_of(mixed.get(place)[0]) for place in range(30)])
    expected = [1 - mixed.locate(place)[0] for place in range(30)]
    assert found.tolist() == expected
    assert found.sum() == 10

"""The loss of unpacked rows with per-sequence means, against a loop that follows the authors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dskd_ds.data.batches import Batch, Sample, make_batch
from dskd_ds.link import Answer
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.models.frozen import FrozenModel
from dskd_ds.models.head import FrozenHead
from dskd_ds.objective.fused import DistillObjective, Scales
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.senses.choose.on_teacher import TeacherSenses
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.senses.choose.selection import Selection
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.spec import RunSpec
from dskd_ds.spec.loss import LossSpec, SignalName
from dskd_ds.student.replies.requests import RequestBuilder
from dskd_ds.teacher.answer import answer
from tests.unit.conftest import HEAD, D, V, senses
from tests.unit.student.slow_paper import LAMBDA, UNRELATED, paper_loss
from tests.unit.student.test_feed import spec_of

LENGTHS = [9, 40, 3, 131]


def paper_spec(kind: SignalName = "exact", retrieve_on: str = "student") -> RunSpec:
    """The paper's loss on unpacked rows, with a top k of the whole vocabulary."""
    spec = spec_of("topk", "data.packing=none")
    loss = LossSpec(
        signal=kind,
        top_k=V,
        temperature=2.0,
        kd_weight=0.0 if kind == "hidden" else 0.7,
        sense_weight=LAMBDA,
        normalise="sequence",
    )
    settings = senses(
        candidates="lexical",
        kappa=5,
        min_positions=25,
        positions="independent",
        position_rounding="down",
        own_in_pull="with_synonyms",
        own_in_push="with_antonyms",
        retrieve_on=retrieve_on,
    )
    return spec.model_copy(update={"senses": settings, "loss": loss, "seed": 5})


def rows() -> list[list[int]]:
    """Conversations of different lengths; the third has no related target."""
    draw = np.random.default_rng(1)
    texts = [draw.integers(0, V, length).tolist() for length in LENGTHS]
    texts[2] = UNRELATED[:3]
    return texts


def batch_of(texts: Sequence[list[int]], first: int = 0) -> Batch:
    """Return the batch of unpacked rows. first: number of the first row in the data."""
    blocks: list[Any] = [
        {"input_ids": ids, "segment_starts": [0], "unsupervised": []} for ids in texts
    ]
    return make_batch(blocks, [Sample(2, first + i) for i in range(len(texts))])


@pytest.fixture
def rounding_teacher(teacher: FrozenModel) -> FrozenModel:
    """A teacher whose states are bfloat16, so that the wire rounds nothing."""
    forward = teacher.trunk.forward

    def rounded_forward(**arguments: Any) -> SimpleNamespace:
        hidden = forward(**arguments).last_hidden_state
        return SimpleNamespace(last_hidden_state=hidden.bfloat16().float())

    teacher.trunk.forward = rounded_forward
    return teacher


@dataclass(frozen=True)
class Learned:
    """What the objective learns from in one batch."""

    teacher: TeacherTargets
    senses: SenseTargets
    selection: Selection


def learn(
    spec: RunSpec, dictionary: SenseDictionary, teacher: FrozenModel, batch: Batch
) -> Learned:
    """Ask the teacher for a batch, and return what is learned from its answer."""
    retriever = SenseRetriever(dictionary, spec.senses, spec.loss, spec.seed)
    requests = RequestBuilder(spec, retriever, V, D)
    request = requests.request(batch)
    arrays = answer(teacher, request.arrays, request.wanted, TeacherSenses(retriever))
    reply = requests.read(request, Answer(arrays, "a", forward_seconds=0.0, link_bytes=0))
    assert request.selection is not None
    return Learned(*requests.targets(request, reply), request.selection)


def student_states(texts: list[list[int]]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(len(ids), D, generator=generator) for ids in texts]


@pytest.mark.parametrize(("kind", "tolerance"), [("exact", 1e-5), ("topk", 5e-5)])
@pytest.mark.parametrize("rows_per_batch", [4, 2, 1])
def test_loss_and_gradients_equal_the_loop(
    dictionary: SenseDictionary,
    rounding_teacher: FrozenModel,
    kind: SignalName,
    tolerance: float,
    rows_per_batch: int,
) -> None:
    """Also across micro-batches, as ranks and accumulation steps have them.

    The logits of a top k are rounded to float16 on their way.
    """
    spec, texts = paper_spec(kind), rows()
    states, weight = student_states(texts), torch.randn(V, D, generator=torch.Generator())
    whole = learn(spec, dictionary, rounding_teacher, batch_of(texts))
    leaves = [state.clone().double().requires_grad_() for state in states]
    slow_head = weight.double().requires_grad_()
    expected = paper_loss(
        spec, dictionary, rounding_teacher, whole.selection, texts, leaves, slow_head
    )
    expected.backward()

    head = torch.nn.Parameter(weight.clone())
    frozen = FrozenHead(HEAD) if kind == "exact" else None
    objective = DistillObjective(head, spec.loss, spec.loss.margin, teacher_head=frozen)
    loss, gradients = 0.0, []
    for start in range(0, len(texts), rows_per_batch):
        some = texts[start : start + rows_per_batch]
        batch = batch_of(some, first=start)
        learned = learn(spec, dictionary, rounding_teacher, batch)
        hidden = torch.zeros(*batch.input_ids.shape, D)
        for row, state in zip(hidden, states[start:], strict=False):
            row[: len(state)] = state
        hidden.requires_grad_()
        scales = Scales(token=1 / len(texts), sense=1 / len(texts))
        part, _ = objective(hidden, learned.teacher, learned.senses, scales)
        part.backward()
        loss += part.item()
        assert hidden.grad is not None
        gradients += list(hidden.grad)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert head.grad is not None
    assert slow_head.grad is not None
    torch.testing.assert_close(head.grad, slow_head.grad.float(), rtol=tolerance, atol=tolerance)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        assert leaf.grad is not None
        found = gradient[: len(leaf)]
        torch.testing.assert_close(found, leaf.grad.float(), rtol=tolerance, atol=tolerance)
        assert gradient[len(leaf) :].eq(0).all()  # padding


@pytest.mark.parametrize(
    ("kind", "retrieve_on"),
    [
        ("topk", "student"),
        ("topk", "teacher"),
        ("exact", "student"),
        ("sampled", "student"),
        ("sampled", "teacher"),
        ("hidden", "student"),
    ],
)
def test_rows_learn_the_same_alone_and_beside_longer_ones(
    dictionary: SenseDictionary, rounding_teacher: FrozenModel, kind: SignalName, retrieve_on: str
) -> None:
    spec, texts = paper_spec(kind, retrieve_on), rows()
    together = learn(spec, dictionary, rounding_teacher, batch_of(texts))
    width = max(LENGTHS)
    assert together.teacher.positions.tolist() == [
        number * width + i for number, length in enumerate(LENGTHS) for i in range(length - 1)
    ]
    of_row = together.senses.positions // width
    for number, ids in enumerate(texts):
        alone = learn(spec, dictionary, rounding_teacher, batch_of([ids], first=number))
        in_row = together.teacher.positions // width == number
        assert torch.equal(together.teacher.targets[in_row], alone.teacher.targets)
        assert together.teacher.weights is not None
        assert alone.teacher.weights is not None
        assert torch.equal(together.teacher.weights[in_row], alone.teacher.weights)
        if kind in ("topk", "exact"):  # a batch's draws are seeded together
            _assert_same(together.teacher.signal.rows(in_row), alone.teacher.signal)
        mine = _senses_where(together.senses, of_row == number)
        moved = replace(alone.senses, positions=alone.senses.positions + number * width)
        _assert_same(mine, _senses_where(moved, torch.ones(len(moved.positions)).bool()))


def _senses_where(targets: SenseTargets, mask: Tensor) -> dict[str, Tensor]:
    """Return some entries by field; S- is cut to five senses, the most that an entry has."""
    values = {
        entry.name: getattr(targets, entry.name)[mask]
        for entry in fields(targets)
        if entry.name != "coverage"
    }
    widest = max(5, targets.push_mask.shape[1])
    for name in ("push", "push_norms", "push_mask"):
        value = values[name]
        missing = widest - value.shape[1]
        padding = value.new_zeros(len(value), missing, *value.shape[2:])
        values[name] = torch.cat([value, padding], dim=1)
    return values


def _assert_same(found: Any, expected: Any) -> None:
    """Assert that two dataclasses, or dictionaries, hold equal tensors."""
    left, right = (x if isinstance(x, dict) else vars(x) for x in (found, expected))
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def test_a_position_that_is_drawn_twice_is_asked_for_once(dictionary: SenseDictionary) -> None:
    spec = paper_spec("topk")
    retriever = SenseRetriever(dictionary, spec.senses, spec.loss, spec.seed)
    request = RequestBuilder(spec, retriever, V, D).request(batch_of(rows()))
    assert request.selection is not None
    drawn = request.selection.positions
    asked = request.arrays["hidden_positions"]
    assert len(drawn) > len(set(drawn.tolist()))
    assert asked.tolist() == sorted(set(drawn.tolist()))

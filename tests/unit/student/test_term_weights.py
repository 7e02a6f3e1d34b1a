"""Weights of losses below the head: their schedule, and the share of the gradient they follow."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from dskd_ds.spec.terms import LayerTermSpec
from dskd_ds.student.terms.gradients import TermGradients, measures_of
from dskd_ds.student.terms.weights import (
    FOLLOWING_RATE,
    MOST_CHANGE,
    TermWeights,
    decay_factor,
)


def term(**keys: Any) -> LayerTermSpec:
    return LayerTermSpec(**{"kind": "cosine", "student_layer": 1, "weight": 2.0} | keys)


@pytest.mark.parametrize(
    ("decay", "share_done", "expected"),
    [
        (None, 0.9, 1.0),
        ((0.5, 1.0), 0.25, 1.0),
        ((0.5, 1.0), 0.5, 1.0),
        ((0.5, 1.0), 0.75, 0.5),
        ((0.5, 1.0), 1.0, 0.0),
        ((0.0, 0.4), 0.1, 0.75),
        ((0.0, 0.4), 0.8, 0.0),
    ],
)
def test_a_weight_falls_linearly(
    decay: tuple[float, float] | None, share_done: float, expected: float
) -> None:
    assert decay_factor(term(decay=decay), share_done) == pytest.approx(expected)
    assert TermWeights([term(decay=decay)]).begin_step(share_done) == pytest.approx([2 * expected])


def test_a_weight_follows_its_share_and_a_resumed_run_goes_on() -> None:
    """The gradient of the term at weight 1 is half as long as that of the other losses."""
    terms = [term(grad_share=0.2, decay=(0.5, 1.0)), term()]
    weights = TermWeights(terms)
    shares = []
    for step in range(64):
        first, second = weights.begin_step(step / 64)
        shares.append(0.5 * first)
        assert second == 2.0
        weights.follow([0.5 * first, 0.5 * second])
    assert shares[:3] == pytest.approx([1.0, 1 / MOST_CHANGE, 1 / MOST_CHANGE**2])
    assert shares[30:33] == pytest.approx([0.2] * 3, rel=0.01)
    assert shares[48] == pytest.approx(0.1, rel=0.01)

    before = weights.begin_step(0.0)
    weights.follow([float("nan"), float("nan")])  # a skipped step
    weights.follow([0.0, 0.0])
    assert weights.begin_step(0.0) == before
    weights.follow([0.4, 0.4])
    assert weights.begin_step(0.0)[0] == pytest.approx(before[0] * 0.5**FOLLOWING_RATE)

    resumed = TermWeights(terms)
    resumed.load_state_dict([json.loads(json.dumps(weights.state_dict()))])
    for either in (weights, resumed):
        either.begin_step(0.25)
        either.follow([0.3, 0.3])
    assert resumed.begin_step(0.3) == weights.begin_step(0.3)


def test_a_weight_that_has_fallen_to_zero_is_left_alone() -> None:
    weights = TermWeights([term(grad_share=0.2, decay=(0.0, 0.5))])
    assert weights.begin_step(0.6) == [0.0]
    weights.follow([0.0])
    assert weights.begin_step(0.0) == [2.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_gradients_are_those_of_separate_backward_passes(dtype: torch.dtype) -> None:
    """Two terms at one layer, over two micro-batches; the rest of the loss reads all positions.

    Of the rest's gradient, only what is at the terms' positions counts.
    """
    torch.manual_seed(0)
    below, above = nn.Linear(6, 6).to(dtype), nn.Linear(6, 6).to(dtype)
    gradients = TermGradients(2)
    expected = torch.zeros(2, 3, dtype=torch.float64)
    for positions in (torch.tensor([0, 3, 4]), torch.tensor([1, 2])):
        inputs = torch.randn(1, 5, 6, dtype=dtype)
        state = below(inputs)
        read = [state.flatten(0, 1).index_select(0, positions) for _ in range(2)]
        losses = [read[0].square().sum(), read[1].sin().sum(), above(state).tanh().sum()]
        own = [torch.autograd.grad(loss, state, retain_graph=True)[0].double() for loss in losses]
        gradients.watch(state, positions, dict(enumerate(read)))
        torch.stack(losses).sum().backward()
        for index in range(2):
            expected[index, 0] += own[index].square().sum()
            expected[index, 1] += own[2].flatten(0, 1)[positions].square().sum()
            expected[index, 2] += (own[index] * own[2]).sum()
    sums = gradients.take(torch.device("cpu"))
    tolerance = 1e-5 if dtype is torch.float64 else 0.05
    torch.testing.assert_close(sums, expected, rtol=tolerance, atol=tolerance)
    assert not gradients.take(torch.device("cpu")).any()  # it starts again from 0

    for measure, (mine, rest, product) in zip(
        measures_of(expected), expected.tolist(), strict=True
    ):
        assert measure.share == pytest.approx((mine / rest) ** 0.5)
        assert measure.cosine == pytest.approx(product / (mine * rest) ** 0.5)


def test_without_a_backward_pass_nothing_is_known() -> None:
    gradients = TermGradients(1)
    state = torch.zeros(1, 2, 3)
    gradients.watch(state, torch.tensor([0]), {0: state.flatten(0, 1)})  # needs no gradient
    (measure,) = measures_of(gradients.take(torch.device("cpu")))
    assert measure.share != measure.share

"""The sense term against its formula, position by position and sense by sense, in float64."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dskd_ds.losses.sense import SenseTargets, sense_loss
from dskd_ds.spec.loss import LossSpec
from tests.unit.losses.test_token import draw

D = 8


def sense_targets(
    seed: int, num_pull: list[int], num_push: list[int]
) -> tuple[SenseTargets, list[Tensor], list[Tensor]]:
    """Random targets, with the sets S+ and S- [n, D] of each position that they are made from.

    num_pull, num_push: number of senses in S+ and in S-, by position.
    """
    pulls = [draw(seed + i, n, D, scale=1.0) for i, n in enumerate(num_pull)]
    pushes = [draw(seed + 100 + i, n, D, scale=1.0) for i, n in enumerate(num_push)]
    width = max(1, *num_push)
    push = torch.stack([torch.cat([p, torch.zeros(width - len(p), D)]) for p in pushes])
    targets = SenseTargets(
        positions=torch.arange(len(pulls)),
        weights=torch.rand(len(pulls), generator=torch.Generator().manual_seed(seed)),
        pull_mean=torch.stack([mean_of(senses) for senses in pulls]),
        pull_spread=torch.stack([spread_of(senses) for senses in pulls]),
        has_pull=torch.tensor(num_pull) > 0,
        push=push,
        push_norms=push.square().sum(2),
        push_mask=torch.arange(width) < torch.tensor(num_push)[:, None],
    )
    return targets, pulls, pushes


def mean_of(senses: Tensor) -> Tensor:
    """The mean [D] of senses [n, D]; zeros for n = 0."""
    return senses.mean(0) if len(senses) else torch.zeros(D)


def spread_of(senses: Tensor) -> Tensor:
    """mean |s|^2 - |mean|^2; 0 for no senses."""
    if not len(senses):
        return torch.tensor(0.0)
    return senses.square().sum(1).mean() - senses.mean(0).square().sum()


def slow_sense(
    hidden: Tensor,
    weights: Tensor,
    pulls: list[Tensor],
    pushes: list[Tensor],
    spec: LossSpec,
    margin: float,
) -> Tensor:
    """The weighted sum of SENSE(i). hidden: [P, D] float64."""
    total = torch.zeros((), dtype=torch.float64)
    for state, pull_set, push_set, weight in zip(hidden, pulls, pushes, weights, strict=True):
        pull = torch.zeros((), dtype=torch.float64)
        for sense in pull_set:
            pull = pull + ((sense.double() - state) ** 2).sum() / len(state) / len(pull_set)
        push = torch.zeros((), dtype=torch.float64)
        for sense in push_set:
            distance = ((sense.double() - state) ** 2).sum() / len(state)
            push = push + torch.clamp(margin - distance, min=0) / len(push_set)
        total = total + weight.double() * (spec.pull * pull + spec.push * push)
    return total


@given(
    seed=st.integers(0, 1000),
    num_pull=st.lists(st.integers(0, 4), min_size=3, max_size=3),
    num_push=st.lists(st.integers(0, 4), min_size=3, max_size=3),
    margin=st.sampled_from([0.5, 2.0, 5.0]),
)
def test_sense_loss_against_the_formula(
    seed: int, num_pull: list[int], num_push: list[int], margin: float
) -> None:
    targets, pulls, pushes = sense_targets(seed, num_pull, num_push)
    spec = LossSpec(pull=0.7, push=1.3)
    hidden = draw(seed + 7, 3, D, scale=1.0)
    found = sense_loss(hidden, targets, spec, margin)
    exact = hidden.double().requires_grad_()
    total = slow_sense(exact, targets.weights, pulls, pushes, spec, margin)
    torch.testing.assert_close(found.loss.double(), total.detach(), rtol=1e-4, atol=1e-5)
    if total.requires_grad:
        (expected_grad,) = torch.autograd.grad(total, exact)
    else:
        expected_grad = torch.zeros(3, D, dtype=torch.float64)
    torch.testing.assert_close(found.grad.double(), expected_grad, rtol=1e-3, atol=1e-5)
    assert found.num_pull == sum(n > 0 for n in num_pull)
    assert found.num_push == sum(num_push)

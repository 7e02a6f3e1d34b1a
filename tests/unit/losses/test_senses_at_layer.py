"""Posterior, contrast and Gram losses against loops over positions, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_ds.losses.gram import same_token_gram
from dskd_ds.losses.senses_at_layer import (
    SenseCandidates,
    TermSenses,
    is_peaked,
    sense_contrast,
    sense_posterior,
)

N, K, U, D = 6, 5, 9, 7
LENGTHS = [5, 1, 3, 2, 5, 1]
NUM_OWN = [2, 1, 3, 1, 4, 0]
"""Of the candidates of each position; the last position's token has no sense."""


def candidates(seed: int, states: torch.Tensor) -> SenseCandidates:
    """Return random candidates for the teacher's states [N, D]."""
    generator = torch.Generator().manual_seed(seed)
    senses = torch.randn(U, D, generator=generator).bfloat16()
    index = torch.stack([torch.randperm(U, generator=generator)[:K] for _ in range(N)])
    columns = torch.arange(K)
    mask = columns < torch.tensor(LENGTHS)[:, None]
    index = index.masked_fill(~mask, 0)
    distances = (senses.float()[index] - states[:, None]).square().sum(2) / D
    return SenseCandidates(
        senses=senses,
        norms=senses.float().square().sum(1),
        index=index,
        mask=mask,
        own=columns < torch.tensor(NUM_OWN)[:, None],
        distances=distances.masked_fill(~mask, 0.0),
        spread=torch.tensor(0.8),
    )


def slow_posterior(
    states: torch.Tensor, teacher: torch.Tensor, found: SenseCandidates, temperature: float
) -> torch.Tensor:
    values = []
    for i in range(N):
        rows = found.senses[found.index[i, : LENGTHS[i]]].double()
        scale = 2 * temperature * float(found.spread) * D
        mine = torch.softmax(-(rows - states[i]).pow(2).sum(1) / scale, 0)
        theirs = torch.softmax(-(rows - teacher[i].double()).pow(2).sum(1) / scale, 0)
        values.append((theirs * (theirs / mine).log()).sum())
    return torch.stack(values)


def slow_contrast(
    states: torch.Tensor, teacher: torch.Tensor, found: SenseCandidates, temperature: float
) -> torch.Tensor:
    values = []
    for i in range(N):
        rows = found.senses[found.index[i, : LENGTHS[i]]].double()
        distances = [(row - teacher[i].double()).norm().item() for row in rows[: NUM_OWN[i]]]
        positive = distances.index(min(distances)) if distances else 0
        cosines = [row @ states[i] / (row.norm() * states[i].norm()) for row in rows]
        terms = torch.stack([(cosine / temperature).exp() for cosine in cosines])
        values.append(-(terms[positive] / terms.sum()).log())
    return torch.stack(values)


def slow_gram(states: torch.Tensor, teacher: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    cosine = torch.nn.functional.cosine_similarity
    values = []
    for i in range(len(tokens)):
        others = [j for j in range(len(tokens)) if j != i and tokens[j] == tokens[i]]
        gaps = [
            cosine(states[i], states[j], dim=0) - cosine(teacher[i], teacher[j], dim=0)
            for j in others
        ]
        squares = [gap.pow(2) for gap in gaps] or [states[i].sum() * 0]
        values.append(torch.stack(squares).mean())
    return torch.stack(values)


@pytest.mark.parametrize("temperature", [0.1, 0.7])
@pytest.mark.parametrize("kind", ["posterior", "contrast"])
def test_values_and_gradients_equal_the_loop(kind: str, temperature: float) -> None:
    torch.manual_seed(0)
    teacher, states = torch.randn(N, D), torch.randn(N, D)
    found = candidates(1, teacher)
    fast, slow = {
        "posterior": (sense_posterior, slow_posterior),
        "contrast": (sense_contrast, slow_contrast),
    }[kind]
    mine = states.clone().requires_grad_()
    theirs = states.double().requires_grad_()
    values = fast(mine, found, temperature)
    expected = slow(theirs, teacher, found, temperature)
    torch.testing.assert_close(values, expected.float(), rtol=1e-4, atol=1e-5)
    (values * torch.arange(1, N + 1)).sum().backward()
    (expected * torch.arange(1, N + 1)).sum().backward()
    assert theirs.grad is not None
    torch.testing.assert_close(mine.grad, theirs.grad.float(), rtol=1e-3, atol=1e-5)
    assert values[1] == values[5] == 0  # one candidate says nothing
    torch.testing.assert_close(fast(states[2:4], found[2:4], temperature), values[2:4].detach())


def test_peaked_positions_are_counted_among_those_with_a_choice() -> None:
    torch.manual_seed(0)
    found = candidates(1, torch.randn(N, D))
    posteriors = [
        torch.softmax(-found.distances[i, : LENGTHS[i]] / (2 * 0.1 * 0.8), 0) for i in range(N)
    ]
    expected = sum(len(values) > 1 and float(values.max()) >= 0.9 for values in posteriors)
    assert 0 < expected < sum(length > 1 for length in LENGTHS)
    assert is_peaked(found, 0.1).sum() == expected
    assert not is_peaked(found, 100.0).any()


def test_gram_equals_the_loop_and_hidden_sizes_may_differ() -> None:
    torch.manual_seed(0)
    tokens = torch.tensor([3, 5, 3, 3, 8, 5])
    teacher, states = torch.randn(6, D + 2), torch.randn(6, D)
    mine, theirs = states.clone().requires_grad_(), states.double().requires_grad_()
    values = same_token_gram(mine, teacher, tokens)
    expected = slow_gram(theirs, teacher.double(), tokens)
    torch.testing.assert_close(values, expected.float(), rtol=1e-4, atol=1e-6)
    assert values[4] == 0  # this token comes once
    (values * torch.arange(6)).sum().backward()
    (expected * torch.arange(6)).sum().backward()
    assert theirs.grad is not None
    torch.testing.assert_close(mine.grad, theirs.grad.float(), rtol=1e-3, atol=1e-6)


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), step=st.floats(0.01, 3.0), temperature=st.floats(0.05, 2.0))
def test_the_posterior_is_a_divergence(seed: int, step: float, temperature: float) -> None:
    """It is 0 at the teacher's state, never negative, and has no gradient at the minimum."""
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(N, D, generator=generator)
    found = candidates(seed, teacher)
    same = teacher.clone().requires_grad_()
    values = sense_posterior(same, found, temperature)
    assert values.abs().max() < 1e-4
    values.sum().backward()
    assert same.grad is not None
    assert same.grad.abs().max() < 1e-3
    moved = teacher + step * torch.randn(N, D, generator=generator)
    assert (sense_posterior(moved, found, temperature) > -1e-5).all()


@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_scale_and_order_do_not_change_contrast_and_gram(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    states, teacher = torch.randn(2, N, D, generator=generator)
    found = candidates(seed, teacher)
    values = sense_contrast(states, found, 0.2)
    torch.testing.assert_close(sense_contrast(3.0 * states, found, 0.2), values)
    assert (values >= -1e-6).all()
    assert (values <= math.log(K) + 2 / 0.2).all()

    tokens = torch.randint(0, 3, (N,), generator=generator)
    order = torch.randperm(N, generator=generator)
    gram = same_token_gram(states, teacher, tokens)
    torch.testing.assert_close(
        same_token_gram(states[order], 2.0 * teacher[order], tokens[order]), gram[order]
    )
    assert not same_token_gram(teacher, 5.0 * teacher, tokens).gt(1e-6).any()


def test_what_a_term_learns_moves_to_a_device_whole() -> None:
    found = candidates(0, torch.zeros(N, D))
    moved = TermSenses(candidates=found, margin=0.5).to(torch.device("meta"))
    assert moved.candidates is not None
    assert moved.candidates.index.device.type == "meta"
    assert (moved.smoothed, moved.senses, moved.margin) == (None, None, 0.5)

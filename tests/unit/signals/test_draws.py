"""Draws from the teacher's distribution: unbiased, and a distribution over different tokens."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dskd_ds.signals.parts.draws import take_draws


def test_draws_are_unbiased_and_scatter_less_than_independent_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 30, generator=generator) * 2
    probs = torch.softmax(logits / 1.5, dim=1).double()
    num_rows, num_draws = 20_000, 8
    uniforms = torch.rand(num_rows, num_draws, generator=generator, dtype=torch.float64)
    sampled = take_draws(logits.expand(num_rows, 30), 1.5, uniforms).sampled()
    dense = torch.zeros(num_rows, 30).scatter_add_(1, sampled.ids, sampled.weights).double()
    variance = probs * (1 - probs) / num_draws
    assert ((dense.mean(dim=0) - probs[0]).abs() < 5 * (variance[0] / num_rows).sqrt()).all()
    assert (dense.var(dim=0) <= variance[0] * 1.1).all()


@given(
    num_rows=st.integers(0, 6),
    vocab_size=st.integers(1, 40),
    num_draws=st.integers(1, 300),
    seed=st.integers(0, 99),
)
def test_draws_are_a_distribution_over_different_tokens(
    num_rows: int, vocab_size: int, num_draws: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_rows, vocab_size, generator=generator) * 3
    logits[:, 0] = -torch.inf if vocab_size > 1 else 0.0  # impossible tokens are never drawn
    uniforms = torch.rand(num_rows, num_draws, generator=generator, dtype=torch.float64)
    sampled = take_draws(logits, 1.0, uniforms).sampled()
    torch.testing.assert_close(sampled.weights.sum(dim=1), torch.ones(num_rows))
    for ids, weights in zip(sampled.ids, sampled.weights, strict=True):
        drawn = ids[weights > 0].tolist()
        assert len(set(drawn)) == len(drawn)
        assert vocab_size == 1 or 0 not in drawn
    log_p = torch.log_softmax(logits.double(), dim=1).gather(1, sampled.ids).clamp_min(-1e6)
    expected = (sampled.weights.double() * log_p).sum(dim=1)
    torch.testing.assert_close(sampled.log_probs.double(), expected, rtol=1e-5, atol=1e-5)

"""Sums of every kind of loss below the head: chunks, weights, blocks, and their gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dskd_ds.data.batches import Batch
from dskd_ds.losses.gram import same_token_gram
from dskd_ds.losses.senses_at_layer import SenseCandidates, TermSenses
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.senses.choose.at_layer import TermRetriever
from dskd_ds.spec.loss import LossSpec
from dskd_ds.spec.terms import LayerTermSpec
from dskd_ds.student.terms.layers import LayerTerm, compared_layers_of
from dskd_ds.student.terms.values import TermBatch, term_sums
from tests.unit.losses.test_senses_at_layer import slow_gram
from tests.unit.senses.choose.small import D, batch, dictionary_in, retriever, spec

LAYER = 7
LOSS = LossSpec(chunk_positions=16, pull=0.7, push=1.3)
MARGIN = 2.0
KINDS = ("mse", "cosine", "gram", "sense", "posterior", "contrast")


def term(kind: str, **keys: Any) -> LayerTerm:
    needs = {"dictionary": "-"} if kind not in ("mse", "cosine", "gram") else {}
    return LayerTerm(
        LayerTermSpec(**{"kind": kind, "student_layer": 1, "weight": 1.0} | needs | keys), LAYER
    )


TERMS = (
    *(term(kind) for kind in KINDS),
    term("cosine", smoothing=0.5, dictionary="-"),
    term("gram", attribution="predicts"),
)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> list[TermRetriever | None]:
    dictionary = dictionary_in(tmp_path_factory.mktemp("terms") / "senses")
    picker = retriever(dictionary, spec(candidates="hybrid"))
    return [
        TermRetriever(picker, asked.spec, MARGIN) if asked.spec.dictionary else None
        for asked in TERMS
    ]


def term_batch(
    learned: list[TermRetriever | None], of: Batch, states: Tensor, weights: Tensor | None
) -> TermBatch:
    """Return what the terms learn from a batch. states: [N, D] of the teacher."""
    positions = of.supervised
    senses = [None if retriever is None else retriever.senses(of, states) for retriever in learned]
    teacher = TeacherTargets(
        positions,
        of.targets.flatten()[positions],
        weights=weights,
        layers=states[None],
        terms=tuple(senses),
    )
    return TermBatch(of.input_ids, teacher.to(torch.device("cpu")), LOSS)


def slow_sense(states: Tensor, learned: TermSenses, weights: Tensor) -> Tensor:
    """Return the paper's term at its positions, from their vectors, one by one."""
    found = learned.senses
    assert found is not None
    total = states.new_zeros(())
    for i, row in enumerate(found.positions.tolist()):
        value = states.new_zeros(())
        if found.has_pull[i]:
            mean = found.pull_mean[i].double()
            value = LOSS.pull * ((states[row] - mean).pow(2).sum() + found.pull_spread[i]) / D
        senses = found.push[i][found.push_mask[i]].double()
        if len(senses):
            gaps = (senses - states[row]).pow(2).sum(1) / D
            value = value + LOSS.push * (MARGIN - gaps).clamp_min(0).mean()
        total = total + weights[row] * value
    return total


def slow_sums(
    of: Batch, taken: TermBatch, states: Tensor, teacher: Tensor, weights: Tensor
) -> Tensor:
    """Return the sum of every term in float64, without chunks."""
    blocks = taken.teacher.positions // of.input_ids.shape[1]
    on = of.input_ids.flatten()[taken.teacher.positions]
    learned = taken.teacher.terms
    cosine = torch.nn.functional.cosine_similarity
    values = {
        0: (states - teacher).pow(2).mean(1) / teacher.var(1, unbiased=False),
        1: 1 - cosine(states, teacher),
        2: slow_gram_by_block(states, teacher, on, blocks),
        4: slow_candidates(states, learned[4], is_posterior=True),
        5: slow_candidates(states, learned[5], is_posterior=False),
        6: 1 - cosine(states, smoothed_of(learned[6])),
        7: slow_gram_by_block(states, teacher, taken.teacher.targets, blocks),
    }
    sums = {index: (weights * value).sum() for index, value in values.items()}
    senses = learned[3]
    assert senses is not None
    sums[3] = slow_sense(states, senses, weights)
    return torch.stack([sums[index] for index in range(len(TERMS))])


def slow_gram_by_block(states: Tensor, teacher: Tensor, tokens: Tensor, blocks: Tensor) -> Tensor:
    parts = [
        slow_gram(states[blocks == block], teacher[blocks == block], tokens[blocks == block])
        for block in blocks.unique()
    ]
    return torch.cat(parts)


def candidates_of(learned: TermSenses | None) -> SenseCandidates:
    assert learned is not None
    assert learned.candidates is not None
    return learned.candidates


def smoothed_of(learned: TermSenses | None) -> Tensor:
    assert learned is not None
    assert learned.smoothed is not None
    return learned.smoothed.double()


def slow_candidates(states: Tensor, learned: TermSenses | None, is_posterior: bool) -> Tensor:
    found = candidates_of(learned)
    values = []
    for i, state in enumerate(states):
        rows = found.vectors()[i][found.mask[i]].double()
        distances = found.distances[i][found.mask[i]].double()
        if is_posterior:
            scale = -2 * 0.1 * float(found.spread)
            theirs = (distances / scale).log_softmax(0)
            mine = ((rows - state).pow(2).sum(1) / D / scale).log_softmax(0)
            values.append((theirs.exp() * (theirs - mine)).sum())
            continue
        own = found.own[i][found.mask[i]]
        positive = distances.masked_fill(~own, torch.inf).argmin()
        cosines = torch.nn.functional.cosine_similarity(rows, state[None]) / 0.1
        values.append(-cosines.log_softmax(0)[positive])
    return torch.stack(values)


@pytest.mark.parametrize("is_weighted", [False, True])
def test_sums_and_gradients_equal_float64(
    learned: list[TermRetriever | None], is_weighted: bool
) -> None:
    of = batch(blocks=2)
    num = len(of.supervised)
    assert num > 2 * LOSS.chunk_positions
    torch.manual_seed(0)
    teacher, states = torch.randn(num, D), torch.randn(num, D)
    weights = torch.rand(num) if is_weighted else None
    taken = term_batch(learned, of, teacher, weights)
    read = [states.clone().requires_grad_() for _ in TERMS]
    sums = term_sums(TERMS, read, taken)
    (sums * torch.arange(1, len(TERMS) + 1)).sum().backward()

    slow_states = [states.double().requires_grad_() for _ in TERMS]
    factor = torch.ones(num).double() if weights is None else weights.double()
    for index, (mine, theirs) in enumerate(zip(read, slow_states, strict=True)):
        expected = slow_sums(of, taken, theirs, teacher.double(), factor)[index]
        assert sums[index].item() == pytest.approx(expected.item(), rel=1e-4), TERMS[index]
        ((index + 1) * expected).backward()
        assert theirs.grad is not None
        torch.testing.assert_close(mine.grad, theirs.grad.float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_that_are_small_before_the_loss_scale_keep_their_value(
    learned: list[TermRetriever | None], dtype: torch.dtype
) -> None:
    """Large states have gradients below the smallest number of float16, until they are scaled."""
    of = batch(blocks=2)
    torch.manual_seed(0)
    teacher, states = 3000 * torch.randn(2, len(of.supervised), D)
    taken = term_batch(learned, of, teacher, torch.full([len(teacher)], 0.01))
    read = [states.to(dtype).requires_grad_() for _ in TERMS]
    exact = [part.detach().float().requires_grad_() for part in read]
    for parts in (read, exact):
        (2.0**16 * term_sums(TERMS, parts, taken)[:3].sum()).backward()
    for mine, theirs in zip(read[:3], exact[:3], strict=True):
        assert mine.grad is not None
        assert mine.grad.dtype == dtype
        assert theirs.grad is not None
        off = (mine.grad.float() - theirs.grad).norm() / theirs.grad.norm()
        assert off < 0.01


def test_micro_batches_add_up_to_the_whole(learned: list[TermRetriever | None]) -> None:
    """However blocks are divided into micro-batches and ranks, the sums are the same."""
    whole = batch(blocks=2)
    torch.manual_seed(1)
    teacher, states = torch.randn(2, len(whole.supervised), D)
    all_at_once = term_sums(TERMS, [states] * 8, term_batch(learned, whole, teacher, None))
    parts = []
    for block in range(2):
        rows = slice(block, block + 1)
        part = Batch(
            whole.samples[rows],
            whole.input_ids[rows],
            whole.position_ids[rows],
            whole.targets[rows],
        )
        in_block = whole.supervised // whole.input_ids.shape[1] == block
        taken = term_batch(learned, part, teacher[in_block], None)
        parts.append(term_sums(TERMS, [states[in_block]] * 8, taken))
    torch.testing.assert_close(torch.stack(parts).sum(0), all_at_once, rtol=1e-4, atol=1e-4)


def test_a_micro_batch_without_targets_adds_nothing(learned: list[TermRetriever | None]) -> None:
    whole = batch(blocks=1)
    empty = replace(whole, targets=torch.full_like(whole.targets, -100))
    none = torch.zeros(0, D)
    read = [none.clone().requires_grad_() for _ in TERMS]
    sums = term_sums(TERMS, read, term_batch(learned, empty, none, None))
    sums.sum().backward()
    assert not sums.any()
    assert same_token_gram(none, none, torch.zeros(0).long()).shape == (0,)


def test_only_some_kinds_compare_with_the_states_themselves() -> None:
    comparing = [kind for kind in KINDS if compared_layers_of([term(kind)])]
    assert comparing == ["mse", "cosine", "gram"]
    assert not compared_layers_of([term("cosine", smoothing=0.5, dictionary="-")])

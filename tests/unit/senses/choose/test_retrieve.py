"""Candidates against a loop over positions as docs/method.md describes them; and what the index changes."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dskd_ds.data.batches import Batch, Sample, make_batch
from dskd_ds.lexicon.relations import TokenRelations
from dskd_ds.losses.distributions import TopK
from dskd_ds.losses.sense import COVERAGE, SenseTargets, sense_loss
from dskd_ds.plan.traffic import held_sense_bytes
from dskd_ds.senses.choose.retrieve import Selection, SenseRetriever
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, open_dictionary, write_dictionary
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.senses.index.graph import build_index, knn, load_graph, load_projection
from dskd_ds.senses.index.service import (
    IndexClient,
    IndexService,
    IndexServiceError,
    service_address,
)
from dskd_ds.signals.parts.top_k import take_top_k
from dskd_ds.spec.loss import LossSpec
from dskd_ds.spec.senses import SensesSpec

V, D, PER_TOKEN = 40, 16, 3


def spec(**settings: Any) -> SensesSpec:
    return SensesSpec(
        **(
            {
                "dictionary": "-",
                "kappa": 2,
                "min_positions": 4,
                "index_dims": 8,
                "index_search_effort": 100,
                "num_neighbours": 30,
                "candidates": "lexical",
            }
            | settings
        )
    )


@pytest.fixture
def dictionary(tmp_path: Path) -> SenseDictionary:
    senses = Senses(
        np.repeat(np.arange(V), PER_TOKEN),
        torch.randn(V * PER_TOKEN, D, generator=torch.Generator().manual_seed(0)),
        np.ones(V * PER_TOKEN, np.int64),
    )
    relations = TokenRelations(
        {t: [t + 1, V] for t in range(10)}, {t: [t + 20] for t in range(8)}, [(3, 4)]
    )
    write_dictionary(
        tmp_path / "senses",
        senses,
        relations,
        {"vocab_size": V, "layer": -1, "teacher": "t", "tokenizer": "z"},
        PER_TOKEN,
    )
    opened = open_dictionary(tmp_path / "senses")
    build_index(opened, spec(), torch.randn(4, D))
    return opened


def batch(seed: int = 0, blocks: int = 2) -> Batch:
    draw = np.random.default_rng(seed)
    rows = [
        {
            "input_ids": draw.integers(0, V, 30).tolist(),
            "segment_starts": [0, 13],
            "unsupervised": [],
        }
        for _ in range(blocks)
    ]
    return make_batch(rows, [Sample(0, block) for block in range(blocks)])


def teacher_words(selection: Selection, seed: int = 0) -> tuple[torch.Tensor, TopK]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(len(selection), D, generator=generator)
    return hidden, take_top_k(torch.randn(len(selection), V, generator=generator) * 2, 8, (1.0,))


def retriever(
    dictionary: SenseDictionary, settings: SensesSpec, loss: LossSpec | None = None
) -> SenseRetriever:
    graph, projection = load_graph(dictionary), load_projection(dictionary)
    return SenseRetriever(
        dictionary, settings, loss or LossSpec(), 0, projection, lambda q, n: knn(graph, q, n)
    )


def rows_of(dictionary: SenseDictionary, owners: list[int]) -> list[int]:
    return [
        r
        for o in owners
        for r in range(int(dictionary.owner_offsets[o]), int(dictionary.owner_offsets[o + 1]))
    ]


def slow_targets(
    dictionary: SenseDictionary,
    settings: SensesSpec,
    selection: Selection,
    hidden: torch.Tensor,
    top_k: TopK,
) -> list[tuple[set[int], set[int]]]:
    """S+ and S- of each position, one by one."""
    senses = dictionary.senses.float()
    result = []
    for i, target in enumerate(selection.targets.tolist()):

        def nearest(rows: list[int], number: int, state: torch.Tensor = hidden[i]) -> list[int]:
            order = (senses[rows] - state).square().sum(1).argsort().tolist()
            return [rows[place] for place in order][:number]

        synonyms, antonyms = selection.synonyms.row(i).tolist(), selection.antonyms.row(i).tolist()
        plus = nearest(rows_of(dictionary, [target, *synonyms]), settings.kappa)
        minus = nearest(
            rows_of(dictionary, [target, *antonyms] if settings.paper_exact else antonyms),
            settings.kappa,
        )
        if settings.paper_exact and selection.full[i] and not synonyms:
            plus = []
        if settings.paper_exact and not selection.full[i]:
            minus = []
        if settings.candidates != "lexical":
            around = nearest(list(range(V * PER_TOKEN)), settings.num_neighbours)
            probability = dict(
                zip(
                    top_k.ids[i].tolist(), top_k.log_probs(1.0, 0)[0][i].exp().tolist(), strict=True
                )
            )
            owner = {r: int(dictionary.row_owners[r]) for r in around}
            related = settings.candidates == "hybrid" and bool(
                len(dictionary.synonyms.row(target)) or len(dictionary.antonyms.row(target))
            )
            if not related:
                likely = [
                    r
                    for r in around
                    if owner[r] != target
                    and probability.get(owner[r], 0) >= settings.min_teacher_probability
                ]
                plus += likely[: settings.kappa]
            if selection.full[i]:
                allowed = {target, *dictionary.synonyms.row(target).tolist(), *probability}
                minus += [r for r in around if owner[r] not in allowed][: settings.kappa]
        result.append((set(plus), set(minus)))
    return result


@pytest.mark.parametrize(
    "settings",
    [
        spec(),
        spec(paper_exact=True),
        spec(candidates="neighbours"),
        spec(candidates="hybrid"),
        spec(candidates="hybrid", kappa=5),
    ],
    ids=["lexical", "paper-exact", "neighbours", "hybrid", "hybrid-5"],
)
def test_candidates_equal_the_loop(dictionary: SenseDictionary, settings: SensesSpec) -> None:
    picker = retriever(dictionary, settings)
    selection = picker.select(batch())
    hidden, top_k = teacher_words(selection)
    found = picker.targets(selection, hidden, top_k, 0)
    senses = dictionary.senses.float()
    expected = slow_targets(dictionary, settings, selection, hidden, top_k)
    assert any(minus for _, minus in expected)
    for i, (plus, minus) in enumerate(expected):
        assert bool(found.has_pull[i]) == bool(plus)
        if plus:
            rows = senses[sorted(plus)]
            torch.testing.assert_close(found.pull_mean[i], rows.mean(0), rtol=1e-4, atol=1e-4)
            distance = (hidden[i] - found.pull_mean[i]).square().sum() + found.pull_spread[i]
            torch.testing.assert_close(
                distance, (rows - hidden[i]).square().sum(1).mean(), rtol=1e-3, atol=1e-3
            )
        pushes = {tuple(row.tolist()) for row in found.push[i][found.push_mask[i]]}
        assert pushes == {tuple(senses[r].tolist()) for r in minus}


@pytest.mark.parametrize("candidates", ["lexical", "neighbours", "hybrid"])
def test_senses_wait_in_the_dictionarys_format_and_give_the_same_loss(
    dictionary: SenseDictionary, candidates: str
) -> None:
    """Not a byte more than the plan says, and some position has as many senses as it can."""
    picker = retriever(dictionary, spec(candidates=candidates))
    selection = picker.select(batch())
    hidden, top_k = teacher_words(selection)
    found = picker.targets(selection, hidden, top_k, 0)
    waiting = sum(
        getattr(found, part.name).nbytes for part in fields(found) if part.name != "coverage"
    )
    assert waiting == len(selection) * held_sense_bytes(picker.spec, D)
    wide = replace(found, push=found.push.float())
    narrow_loss, wide_loss = (
        sense_loss(hidden + 0.1, targets, LossSpec(), 5.0) for targets in (found, wide)
    )
    assert torch.equal(narrow_loss.sums(), wide_loss.sums())
    assert torch.equal(narrow_loss.grad, wide_loss.grad)
    assert narrow_loss.push_active > 0


def test_positions_follow_the_papers_rule(dictionary: SenseDictionary) -> None:
    picker = retriever(dictionary, spec(min_positions=3, position_fraction=0.5))
    some = batch(blocks=1)
    selection = picker.select(some)
    targets = some.targets[0].numpy()
    related = sum(bool(t >= 0 and picker.has_relations[t]) for t in targets)
    assert selection.full.sum() == max(min(3, related), -(-related // 2))
    assert (~selection.full).sum() == selection.full.sum()
    assert picker.has_relations[selection.targets[selection.full]].all()
    assert len(set(selection.positions.tolist())) == len(selection)
    assert all(len(selection.synonyms.row(i)) == 0 for i in np.flatnonzero(~selection.full))


def test_draws_depend_on_the_sample_alone(dictionary: SenseDictionary) -> None:
    picker = retriever(dictionary, spec())
    both = batch()
    second = Batch(both.samples[1:], both.input_ids[1:], both.position_ids[1:], both.targets[1:])
    alone, together = picker.select(second), picker.select(both)
    mine = together.positions >= 30
    assert (together.positions[mine] - 30).tolist() == alone.positions.tolist()
    other = Batch((Sample(1, 1),), second.input_ids, second.position_ids, second.targets)
    assert picker.select(other).positions.tolist() != alone.positions.tolist()


def test_taking_the_index_away_changes_the_sense_term(dictionary: SenseDictionary) -> None:
    loss = LossSpec(margin=5.0)
    hybrid, lexical = (
        retriever(dictionary, spec(candidates="hybrid")),
        retriever(dictionary, spec()),
    )
    selection = hybrid.select(batch())
    hidden, top_k = teacher_words(selection)
    student = hidden + 0.1
    with_index, without = (
        sense_loss(student, r.targets(selection, hidden, top_k, 0), loss, 5.0)
        for r in (hybrid, lexical)
    )
    assert with_index.num_push > without.num_push
    assert abs(float(with_index.loss - without.loss)) > 0.1


def test_weights_are_the_teachers_probability_of_the_target(dictionary: SenseDictionary) -> None:
    picker = retriever(dictionary, spec(), LossSpec(sense_weighting="teacher_probability"))
    selection = picker.select(batch())
    hidden, top_k = teacher_words(selection)
    weights = picker.targets(selection, hidden, top_k, 0).weights
    for i, target in enumerate(selection.targets.tolist()):
        probability = dict(
            zip(top_k.ids[i].tolist(), top_k.log_probs(1.0, 0)[0][i].exp().tolist(), strict=True)
        ).get(target, 0.0)
        assert weights[i] == pytest.approx(probability, rel=1e-4)


@pytest.mark.parametrize("candidates", ["lexical", "neighbours", "hybrid"])
def test_coverage_counts_what_positions_had(dictionary: SenseDictionary, candidates: str) -> None:
    settings = spec(candidates=candidates)
    picker = retriever(dictionary, settings)
    selection = picker.select(batch())
    hidden, top_k = teacher_words(selection)
    found = picker.targets(selection, hidden, top_k, 0)
    lexical = slow_targets(dictionary, spec(), selection, hidden, top_k)
    both = slow_targets(dictionary, settings, selection, hidden, top_k)
    expected = {
        "synonyms": sum(len(selection.synonyms.row(i)) > 0 for i in range(len(selection))),
        "antonyms": sum(len(selection.antonyms.row(i)) > 0 for i in range(len(selection))),
        "neighbours": sum(
            bool((with_index[0] - own[0]) | (with_index[1] - own[1]))
            for with_index, own in zip(both, lexical, strict=True)
        ),
        "nothing": sum(not plus and not minus for plus, minus in both),
    }
    assert dict(zip(COVERAGE, found.coverage.tolist(), strict=True)) == expected
    assert (expected["synonyms"] > 0) == (candidates != "neighbours")
    assert (expected["neighbours"] > 0) == (candidates != "lexical")


def test_no_positions_give_empty_targets() -> None:
    targets = SenseTargets.empty(D)
    found = sense_loss(torch.randn(3, D)[targets.positions], targets, LossSpec(), 1.0)
    assert found.loss == 0.0
    assert found.grad.shape == (0, D)


def test_the_nodes_index_answers_as_the_graph_does(
    dictionary: SenseDictionary, tmp_path: Path
) -> None:
    address = service_address(str(tmp_path), 1)
    service = IndexService(address, load_graph(dictionary))
    client = IndexClient(address)
    queries = load_projection(dictionary)(torch.randn(5, D))
    np.testing.assert_array_equal(
        client.search(queries, 20), knn(load_graph(dictionary), queries, 20)
    )
    with pytest.raises(IndexServiceError, match="refused"):
        client.search(queries[:, :3], 20)
    client.close()
    service.close()

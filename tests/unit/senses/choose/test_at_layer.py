"""The senses that losses below the head get, against loops over positions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dskd_ds.data.batches import IGNORE, Batch, Sample
from dskd_ds.losses.senses_at_layer import TermSenses
from dskd_ds.senses.choose.at_layer import TermRetriever
from dskd_ds.senses.choose.shuffled import shuffled_tokens
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.dictionary.distances import typical_spread
from dskd_ds.spec.terms import LayerTermSpec
from tests.unit.senses.choose.small import PER_TOKEN, D, V, batch, dictionary_in, retriever, spec


@pytest.fixture
def dictionary(tmp_path: Path) -> SenseDictionary:
    return dictionary_in(tmp_path / "senses")


def term(kind: str, **keys: Any) -> LayerTermSpec:
    return LayerTermSpec(
        **{"kind": kind, "student_layer": 1, "weight": 1.0, "dictionary": "-"} | keys
    )


def found_by(dictionary: SenseDictionary, asked: LayerTermSpec, **settings: Any) -> TermSenses:
    """Return what a term gets for the small batch, at random states."""
    finder = TermRetriever(retriever(dictionary, spec(**settings)), asked, margin=1.0)
    return finder.senses(batch(), teacher_states(batch()))


def sinks_of(of: Batch) -> list[bool]:
    """Return which positions with a target are the first of a segment."""
    sinks: list[bool] = (of.position_ids.flatten()[of.supervised] == 0).tolist()
    return sinks


def teacher_states(of: Batch) -> torch.Tensor:
    """Return random states; the first token of a segment is an attention sink."""
    states = torch.randn(len(of.supervised), D, generator=torch.Generator().manual_seed(7))
    states[torch.tensor(sinks_of(of))] *= 50
    return states


def tokens_of(of: Batch, attribution: str) -> list[int]:
    held = of.input_ids if attribution == "on" else of.targets
    tokens: list[int] = held.flatten()[of.supervised].tolist()
    return tokens


def distances_from(dictionary: SenseDictionary, state: torch.Tensor) -> torch.Tensor:
    return (dictionary.senses.float() - state).square().sum(1)


def slow_others(
    dictionary: SenseDictionary, token: int, state: torch.Tensor, candidates: str
) -> set[int]:
    """Return the rows that a token is told from: the 2 nearest antonyms' and neighbours' senses."""
    distances = distances_from(dictionary, state)
    owners = dictionary.row_owners
    antonyms = dictionary.antonyms.row(token).tolist()
    related = set()
    if candidates != "neighbours":
        rows = [row for row in range(len(owners)) if owners[row] in antonyms]
        related = set(sorted(rows, key=lambda row: float(distances[row]))[:2])
    if candidates == "lexical":
        return related
    tokens_only = distances[: dictionary.num_token_rows]  # the index has no spans
    near = tokens_only.argsort()[:30].tolist()  # num_neighbours
    kept_out = {token, *dictionary.synonyms.row(token).tolist()}
    near = [row for row in near if owners[row] not in kept_out]
    return related | set(near[:2])


@pytest.mark.parametrize("attribution", ["on", "predicts"])
@pytest.mark.parametrize("candidates", ["lexical", "neighbours", "hybrid"])
def test_candidates_are_own_senses_antonyms_and_neighbours(
    dictionary: SenseDictionary, candidates: str, attribution: str
) -> None:
    asked = term("posterior", attribution=attribution)
    found = found_by(dictionary, asked, candidates=candidates).candidates
    assert found is not None
    states = teacher_states(batch())
    num_others = 0
    sinks = sinks_of(batch())
    for i, token in enumerate(tokens_of(batch(), attribution)):
        if sinks[i]:
            assert not found.own[i].any()
            continue
        own = set(range(token * PER_TOKEN, (token + 1) * PER_TOKEN))
        others = slow_others(dictionary, token, states[i], candidates)
        num_others += len(others)
        vectors = {tuple(row) for row in found.vectors()[i][found.mask[i]].tolist()}
        senses = dictionary.senses.float()
        assert vectors == {tuple(senses[row].tolist()) for row in own | others}
        of_token = {tuple(row) for row in found.vectors()[i][found.own[i]].tolist()}
        assert of_token == {tuple(senses[row].tolist()) for row in own}
        expected = (found.vectors()[i] - states[i]).square().sum(1) / D
        expected = expected.masked_fill(~found.mask[i], 0.0)
        torch.testing.assert_close(found.distances[i], expected, rtol=1e-4, atol=1e-4)
    assert num_others
    assert float(found.spread) == pytest.approx(typical_spread(dictionary))
    torch.testing.assert_close(found.norms, found.senses.float().square().sum(1))


def test_a_token_without_senses_has_one_candidate_that_is_not_its_own(
    dictionary: SenseDictionary,
) -> None:
    """A span's id stands for a token that the dictionary does not know."""
    ids = torch.tensor([[1, 2, 3]])
    unknown = dictionary.owner_offsets.copy()
    unknown[3:] = unknown[2]  # tokens from 2 on have no rows
    targets = torch.tensor([[2, 3, IGNORE]])
    small = Batch((Sample(0, 0),), ids, torch.arange(3)[None], targets)
    poor = retriever(dictionary, spec(candidates="hybrid"))
    object.__setattr__(dictionary, "owner_offsets", unknown)
    for kind, keys in (("contrast", {}), ("cosine", {"smoothing": 0.5})):
        finder = TermRetriever(poor, term(kind, attribution="predicts", **keys), margin=1.0)
        found = finder.senses(small, torch.ones(2, D))
        if found.candidates is not None:
            assert found.candidates.mask.sum(1).tolist() == [1, 1]
            assert not found.candidates.own.any()
        else:
            assert found.smoothed is not None
            assert found.smoothed.eq(1).all()


@pytest.mark.parametrize("kind", ["cosine", "mse"])
def test_smoothing_mixes_in_the_mean_of_the_tokens_senses(
    dictionary: SenseDictionary, kind: str
) -> None:
    found = found_by(dictionary, term(kind, smoothing=0.25, temperature=0.3)).smoothed
    assert found is not None
    states = teacher_states(batch())
    for i, token in enumerate(tokens_of(batch(), "on")):
        rows = dictionary.senses[dictionary.owner_rows(token)].double()
        if sinks_of(batch())[i]:
            assert found[i].equal(states[i])
            continue
        scale = 2 * 0.3 * typical_spread(dictionary) * D
        weights = torch.softmax(-(rows - states[i].double()).pow(2).sum(1) / scale, 0)
        expected = 0.75 * states[i].double() + 0.25 * (weights[:, None] * rows).sum(0)
        torch.testing.assert_close(found[i], expected.float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("candidates", ["lexical", "hybrid"])
def test_the_papers_term_has_the_positions_and_senses_of_the_last_layers(
    dictionary: SenseDictionary, candidates: str
) -> None:
    asked = term("sense", attribution="predicts")
    learned = found_by(dictionary, asked, candidates=candidates)
    found = learned.senses
    assert found is not None
    assert learned.margin == 1.0
    picker = retriever(dictionary, spec(candidates=candidates))
    no_sinks = batch().targets.masked_fill(batch().position_ids == 0, IGNORE)
    selection = picker.select(replace(batch(), targets=no_sinks))
    positions = batch().supervised[found.positions]
    assert positions.tolist() == selection.positions.tolist()
    states = teacher_states(batch())[found.positions]
    pull, push = picker.lexical(selection, states)
    assert found.has_pull.sum() == len(np.unique(pull.positions))
    if candidates == "lexical":
        assert found.push_mask.sum() == len(push.rows)
    else:
        assert found.push_mask.sum() > len(push.rows)
        assert found.push_mask[torch.from_numpy(~selection.full)].sum() == 0


def test_shuffled_senses_are_those_of_another_token(dictionary: SenseDictionary) -> None:
    picker = retriever(dictionary, spec(candidates="hybrid"))
    changed = shuffled_tokens(picker)
    assert sorted(changed.tolist()) == list(range(V))
    assert not (changed == torch.arange(V)).any()
    for table in (picker.synonyms, picker.antonyms):
        has = torch.from_numpy(table.lengths() > 0)
        assert has[changed].equal(has)
    picker.seed = 1
    assert not torch.equal(changed, shuffled_tokens(picker))

    asked = term("contrast", shuffled_senses=True)
    found = found_by(dictionary, asked, candidates="hybrid").candidates
    assert found is not None
    for i, token in enumerate(tokens_of(batch(), "on")):
        if sinks_of(batch())[i]:
            continue
        rows = dictionary.senses[dictionary.owner_rows(int(changed[token]))].float()
        torch.testing.assert_close(found.vectors()[i][found.own[i]], rows)


def test_a_control_gets_no_sense_of_the_token_or_its_synonyms(dictionary: SenseDictionary) -> None:
    """The teacher's state lies at the token's own sense, so the index finds it first."""
    tokens = tokens_of(batch(), "on")
    states = dictionary.senses[[token * PER_TOKEN for token in tokens]].float()
    picker = retriever(dictionary, spec(candidates="hybrid", positions="independent"))
    shuffled = {"shuffled_senses": True}
    found = TermRetriever(picker, term("posterior", **shuffled), margin=1.0).senses(batch(), states)
    assert found.candidates is not None
    vectors = dictionary.senses.float()
    for i, token in enumerate(tokens):
        given = found.candidates.vectors()[i][found.candidates.own[i] | found.candidates.mask[i]]
        for owner in (token, *(o for o in dictionary.synonyms.row(token).tolist() if o < V)):
            for row in vectors[dictionary.owner_rows(owner)]:
                assert not (given == row).all(dim=1).any()


def test_a_control_has_the_positions_of_the_term(dictionary: SenseDictionary) -> None:
    picker = retriever(dictionary, spec(candidates="hybrid"))
    positions = []
    for keys in ({}, {"shuffled_senses": True}):
        finder = TermRetriever(picker, term("sense", **keys), margin=1.0)
        found = finder.senses(batch(), teacher_states(batch())).senses
        assert found is not None
        positions.append(found.positions.tolist())
        assert not any(sinks_of(batch())[position] for position in positions[-1])
    assert positions[0] == positions[1]


def test_the_typical_spread_is_that_of_a_median_state(dictionary: SenseDictionary) -> None:
    spreads = [
        spread
        for count, spread in zip(dictionary.sense_counts, dictionary.sense_spread, strict=True)
        for _ in range(count)
        if count > 1
    ]
    assert typical_spread(dictionary) == pytest.approx(np.median(spreads), abs=0.01)
    object.__setattr__(dictionary, "sense_counts", np.ones_like(dictionary.sense_counts))
    assert typical_spread(dictionary) == 0.0


def test_what_a_position_gets_does_not_depend_on_its_batch(dictionary: SenseDictionary) -> None:
    whole, states = batch(), teacher_states(batch())
    of_first = int((whole.targets[0] != IGNORE).sum())
    second = Batch(
        whole.samples[1:], whole.input_ids[1:], whole.position_ids[1:], whole.targets[1:]
    )
    picker = retriever(dictionary, spec(candidates="hybrid", num_related_words=1))
    for kind in ("posterior", "contrast"):
        finder = TermRetriever(picker, term(kind), margin=1.0)
        together = finder.senses(whole, states).candidates
        alone = finder.senses(second, states[of_first:]).candidates
        assert together is not None
        assert alone is not None
        for i in range(len(alone.index)):
            mine = alone.vectors()[i][alone.mask[i]]
            theirs = together[of_first:].vectors()[i][together.mask[of_first + i]]
            torch.testing.assert_close(mine, theirs)

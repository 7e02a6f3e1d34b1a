"""S+ and S- against a loop over positions, and what the index adds to them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dskd_ds.losses.sense import COVERAGE, sense_loss
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.spec.loss import LossSpec
from dskd_ds.spec.senses import SensesSpec
from tests.unit.senses.choose.slow import slow_targets
from tests.unit.senses.choose.small import batch, dictionary_in, retriever, spec, teacher_signal


@pytest.fixture
def dictionary(tmp_path: Path) -> SenseDictionary:
    return dictionary_in(tmp_path / "senses")


@pytest.mark.parametrize(
    "settings",
    [
        spec(),
        spec(own_in_pull="with_synonyms"),
        spec(own_in_push="with_antonyms"),
        spec(positions="independent", own_in_push="with_antonyms"),
        spec(candidates="neighbours"),
        spec(candidates="hybrid"),
        spec(candidates="hybrid", kappa=5),
    ],
    ids=["lexical", "own-pull", "own-push", "independent", "neighbours", "hybrid", "hybrid-5"],
)
@pytest.mark.parametrize("shuffled", [False, True], ids=["own", "shuffled"])
def test_candidates_equal_the_loop(
    dictionary: SenseDictionary, settings: SensesSpec, shuffled: bool
) -> None:
    picker = retriever(dictionary, settings, LossSpec(shuffled_senses=shuffled))
    selection = picker.select(batch())
    hidden, top_k = teacher_signal(selection)
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
            mean_distance = (rows - hidden[i]).square().sum(1).mean()
            torch.testing.assert_close(distance, mean_distance, rtol=1e-3, atol=1e-3)
        pushes = {tuple(row.tolist()) for row in found.push[i][found.push_mask[i]]}
        assert pushes == {tuple(senses[row].tolist()) for row in minus}


def test_without_the_index_the_sense_term_differs(dictionary: SenseDictionary) -> None:
    loss = LossSpec(margin=5.0)
    hybrid = retriever(dictionary, spec(candidates="hybrid"))
    lexical = retriever(dictionary, spec())
    selection = hybrid.select(batch())
    hidden, top_k = teacher_signal(selection)
    student = hidden + 0.1
    with_index, without = (
        sense_loss(student, picker.targets(selection, hidden, top_k, 0), loss, 5.0)
        for picker in (hybrid, lexical)
    )
    assert with_index.num_push > without.num_push
    assert abs(float(with_index.loss - without.loss)) > 0.1


@pytest.mark.parametrize("shuffled", [False, True], ids=["own", "shuffled"])
def test_weights_are_the_teachers_probability_of_the_target(
    dictionary: SenseDictionary, shuffled: bool
) -> None:
    loss = LossSpec(sense_weighting="teacher_probability", shuffled_senses=shuffled)
    picker = retriever(dictionary, spec(), loss)
    selection = picker.select(batch())
    hidden, top_k = teacher_signal(selection)
    weights = picker.targets(selection, hidden, top_k, 0).weights
    probabilities = top_k.log_probs(1.0, 0)[0].exp()
    for i, target in enumerate(selection.read.tolist()):
        by_token = dict(zip(top_k.ids[i].tolist(), probabilities[i].tolist(), strict=True))
        assert weights[i] == pytest.approx(by_token.get(target, 0.0), rel=1e-4)


@pytest.mark.parametrize("candidates", ["lexical", "neighbours", "hybrid"])
def test_coverage_counts_what_positions_had(dictionary: SenseDictionary, candidates: str) -> None:
    settings = spec(candidates=candidates)
    picker = retriever(dictionary, settings)
    selection = picker.select(batch())
    hidden, top_k = teacher_signal(selection)
    found = picker.targets(selection, hidden, top_k, 0)
    lexical = slow_targets(dictionary, spec(), selection, hidden, top_k)
    both = slow_targets(dictionary, settings, selection, hidden, top_k)
    added_by_index = [
        (plus - lexical_plus) | (minus - lexical_minus)
        for (plus, minus), (lexical_plus, lexical_minus) in zip(both, lexical, strict=True)
    ]
    expected = {
        "synonyms": sum(len(selection.synonyms.row(i)) > 0 for i in range(len(selection))),
        "antonyms": sum(len(selection.antonyms.row(i)) > 0 for i in range(len(selection))),
        "neighbours": sum(bool(rows) for rows in added_by_index),
        "nothing": sum(not plus and not minus for plus, minus in both),
    }
    assert dict(zip(COVERAGE, found.coverage.tolist(), strict=True)) == expected
    assert (expected["synonyms"] > 0) == (candidates != "neighbours")
    assert (expected["neighbours"] > 0) == (candidates != "lexical")

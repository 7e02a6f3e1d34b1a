"""The positions that get the sense term."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dskd_ds.data.batches import Batch, Sample
from dskd_ds.senses.choose.shuffled import shuffled_tokens
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.spec.loss import LossSpec
from tests.unit.senses.choose.small import BLOCK_TOKENS, batch, dictionary_in, retriever, spec


@pytest.fixture
def dictionary(tmp_path: Path) -> SenseDictionary:
    return dictionary_in(tmp_path / "senses")


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
    in_second = together.positions >= BLOCK_TOKENS
    shifted = together.positions[in_second] - BLOCK_TOKENS
    assert shifted.tolist() == alone.positions.tolist()
    next_epoch = Batch((Sample(1, 1),), second.input_ids, second.position_ids, second.targets)
    assert picker.select(next_epoch).positions.tolist() != alone.positions.tolist()


@pytest.mark.parametrize("candidates", ["lexical", "neighbours", "hybrid"])
def test_shuffled_senses_change_tokens_but_no_positions(
    dictionary: SenseDictionary, candidates: str
) -> None:
    settings = spec(candidates=candidates)
    own = retriever(dictionary, settings).select(batch())
    picker = retriever(dictionary, settings, LossSpec(shuffled_senses=True))
    shuffled = picker.select(batch())
    assert shuffled.positions.tolist() == own.positions.tolist()
    assert shuffled.full.tolist() == own.full.tolist()
    assert shuffled.read.tolist() == own.read.tolist() == own.targets.tolist()
    assert shuffled.targets.tolist() == shuffled_tokens(picker)[own.targets].tolist()
    assert not (shuffled.targets == shuffled.read).any()
    for i in range(len(shuffled)):
        words = shuffled.synonyms.row(i).tolist()
        assert set(words) <= set(picker.synonyms.row(int(shuffled.targets[i])).tolist())

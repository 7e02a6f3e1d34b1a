"""The paper's positions and candidates against a loop that follows the authors' description."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dskd_ds.data.batches import IGNORE, Batch, Sample
from dskd_ds.lexicon.relations import TokenRelations
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, open_dictionary
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.senses.dictionary.write import write_dictionary
from dskd_ds.spec.loss import LossSpec
from dskd_ds.spec.senses import SensesSpec
from tests.unit.senses.choose.slow import paper_positions, paper_sets
from tests.unit.senses.choose.small import D, teacher_signal

V, PER_TOKEN, SEED = 200, 4, 11
WITH_SYNONYMS, WITH_ANTONYMS, WITH_BOTH = range(20), range(20, 30), range(30, 40)
MANY = 39
"""A token with more than 25 synonyms and antonyms."""
NO_SENSES = 199
"""A token without senses; the only synonym of token 40, and the only antonym of token 41."""
HEADS = set(range(42))
PAPER = SensesSpec(
    dictionary="-",
    candidates="lexical",
    positions="independent",
    position_rounding="down",
    own_in_pull="with_synonyms",
    own_in_push="with_antonyms",
)


@pytest.fixture(scope="module")
def dictionary(tmp_path_factory: pytest.TempPathFactory) -> SenseDictionary:
    """Random senses; 42 heads, half of which have synonyms only."""
    folder = tmp_path_factory.mktemp("paper") / "senses"
    synonyms = {token: [50 + token, 90 + token] for token in (*WITH_SYNONYMS, *WITH_BOTH)}
    antonyms = {token: [130 + token] for token in (*WITH_ANTONYMS, *WITH_BOTH)}
    synonyms[MANY], antonyms[MANY] = list(range(100, 140)), list(range(140, 180))
    synonyms[40], antonyms[41] = [NO_SENSES], [NO_SENSES]
    num_rows = NO_SENSES * PER_TOKEN
    generator = torch.Generator().manual_seed(0)
    write_dictionary(
        folder,
        senses=Senses(
            np.repeat(np.arange(NO_SENSES), PER_TOKEN),
            torch.randn(num_rows, D, generator=generator),
            np.ones(num_rows, np.int64),
        ),
        relations=TokenRelations(synonyms, antonyms, []),
        facts={"vocab_size": V, "layer": -1, "teacher": "t", "tokenizer": "z"},
        num_senses=PER_TOKEN,
        keep_without_senses=True,
    )
    return open_dictionary(folder)


def sequences(num_related: list[int], length: int = 160) -> Batch:
    """Return a batch whose sequence i has num_related[i] targets that are heads.

    The last ten positions of each are padding.
    """
    draw = np.random.default_rng(3)
    targets = np.full((len(num_related), length), IGNORE)
    for row, count in zip(targets, num_related, strict=True):
        others = draw.integers(45, V, length - 10 - count)
        row[: length - 10] = draw.permutation([*draw.integers(0, len(HEADS), count), *others])
    samples = tuple(Sample(epoch=1, block=7 * i) for i in range(len(num_related)))
    ids = torch.zeros(targets.shape, dtype=torch.long)
    return Batch(samples, ids, ids, torch.from_numpy(targets))


# Around every border of the rule: none, one, 25, 62, 63; and 65, where 0.4 n first exceeds 25.
RELATED = [0, 1, 24, 25, 26, 62, 63, 64, 65, 70, 150]


def test_positions_equal_the_loop(dictionary: SenseDictionary) -> None:
    batch = sequences(RELATED)
    selection = SenseRetriever(dictionary, PAPER, LossSpec(), SEED).select(batch)
    length = batch.targets.shape[1]
    num_overlaps = 0
    for row, sample in enumerate(batch.samples):
        generator = np.random.default_rng([SEED, sample.epoch, sample.block])
        group_a, group_b = paper_positions(
            batch.targets[row].tolist(), heads=HEADS, generator=generator
        )
        in_row = selection.positions // length == row
        found = selection.positions[in_row] % length
        full = selection.full[in_row]
        assert sorted(group_a) == found[full].tolist()
        assert sorted(group_b) == found[~full].tolist()
        num_overlaps += len(set(group_a) & set(group_b))
    assert num_overlaps > 0


def test_sets_equal_the_loop(dictionary: SenseDictionary) -> None:
    batch = sequences(RELATED)
    retriever = SenseRetriever(dictionary, PAPER, LossSpec(), SEED)
    selection = retriever.select(batch)
    hidden, top_k = teacher_signal(selection)
    # The top k of the signal has fewer tokens than this dictionary; uniform weights ignore it.
    chosen = retriever.choose(selection, hidden, top_k, 0)
    kinds = set()
    for i, target in enumerate(selection.targets.tolist()):
        group = "A" if selection.full[i] else "B"
        synonyms, antonyms = selection.synonyms.row(i).tolist(), selection.antonyms.row(i).tolist()
        plus, minus = paper_sets(
            dictionary,
            group=group,
            target=target,
            synonyms=synonyms,
            antonyms=antonyms,
            state=hidden[i],
        )
        assert set(chosen.pull.rows[chosen.pull.positions == i].tolist()) == plus
        assert set(chosen.push.rows[chosen.push.positions == i].tolist()) == minus
        kinds.add((group, bool(plus), bool(minus)))
    in_group_a = {("A", True, False), ("A", False, True), ("A", True, True)}
    assert kinds == in_group_a | {("B", True, False), ("B", False, False)}
    # The target's own senses are used wherever it has a list, even if no word of it has a sense.
    for head, found in ((40, chosen.pull), (41, chosen.push)):
        entries = np.flatnonzero((selection.targets == head) & selection.full)
        assert len(entries)
        assert np.isin(entries, found.positions).all()


def test_at_most_25_related_words_are_drawn_uniformly(dictionary: SenseDictionary) -> None:
    batch = sequences([150])
    batch.targets[0, :150] = MANY
    retriever = SenseRetriever(dictionary, PAPER, LossSpec(), SEED)
    selection = retriever.select(batch)
    drawn = [selection.synonyms.row(i).tolist() for i in np.flatnonzero(selection.full)]
    assert len(drawn) == 60
    assert all(len(set(words)) == 25 for words in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=V)[100:140]
    expected = 60 * 25 / 40
    # Each count is binomial; five standard deviations, with a fixed seed.
    assert np.abs(counts - expected).max() < 5 * np.sqrt(60 * (25 / 40) * (15 / 40))
    assert len({tuple(words) for words in drawn}) > 50


def test_where_only_synonyms_exist_nothing_pushes(dictionary: SenseDictionary) -> None:
    """Own senses in both sets would cancel within the margin."""
    batch = sequences([80])
    retriever = SenseRetriever(dictionary, PAPER, LossSpec(), SEED)
    selection = retriever.select(batch)
    hidden, top_k = teacher_signal(selection)
    chosen = retriever.choose(selection, hidden, top_k, 0)
    only_synonyms = np.isin(selection.targets, WITH_SYNONYMS) & selection.full
    assert only_synonyms.sum() > 5
    assert not only_synonyms[chosen.push.positions].any()


def test_words_without_senses_are_dropped_by_default(
    dictionary: SenseDictionary, tmp_path: Path
) -> None:
    assert dictionary.synonyms.row(40).tolist() == [NO_SENSES]
    relations = TokenRelations({1: [NO_SENSES], 2: [3, NO_SENSES]}, {1: [NO_SENSES]}, [])
    write_dictionary(
        tmp_path / "senses",
        senses=Senses(np.arange(9), torch.randn(9, D), np.ones(9, np.int64)),
        relations=relations,
        facts={"vocab_size": V, "layer": -1, "teacher": "t", "tokenizer": "z"},
        num_senses=1,
    )
    opened = open_dictionary(tmp_path / "senses")
    assert [opened.synonyms.row(token).tolist() for token in (1, 2)] == [[], [3]]
    assert opened.antonyms.row(1).tolist() == []

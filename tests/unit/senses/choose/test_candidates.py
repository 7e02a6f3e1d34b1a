"""Operations on flat arrays of senses, compared with loops over positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_ds.bench.lookup import as_sets, loop_over_positions, loop_over_positions_at_once
from dskd_ds.lexicon.relations import Ragged, TokenRelations
from dskd_ds.senses.choose import candidates as sets
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.senses.choose.selection import Selection
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, open_dictionary
from dskd_ds.senses.dictionary.distances import pair_distances, rerank
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.senses.dictionary.write import write_dictionary
from dskd_ds.spec.loss import LossSpec
from dskd_ds.spec.senses import SensesSpec

V, D = 60, 12


@pytest.fixture(scope="module")
def dictionary(tmp_path_factory: pytest.TempPathFactory) -> SenseDictionary:
    """Return a dictionary of owners with 0 to 9 senses, with relations among all of them."""
    draw = np.random.default_rng(0)
    counts = draw.integers(0, 10, V)
    counts[0] = 3
    owners = np.repeat(np.arange(V), counts)
    rows = torch.randn(len(owners), D, generator=torch.Generator().manual_seed(0))
    related = {}
    for token in range(0, V, 2):
        others = set(draw.integers(0, V, draw.integers(1, 30)).tolist())
        related[token] = sorted(others - {token})
    folder = tmp_path_factory.mktemp("candidates") / "senses"
    write_dictionary(
        folder,
        senses=Senses(owners, rows, np.ones(len(owners), np.int64)),
        relations=TokenRelations(related, {t: v[:4] for t, v in related.items()}, []),
        facts={"vocab_size": V},
        num_senses=9,
    )
    return open_dictionary(folder)


def selection_of(dictionary: SenseDictionary, targets: np.ndarray, seed: int) -> Selection:
    """Return a selection with these targets, of which about 7 in 10 get pull and push."""
    draw = np.random.default_rng(seed)
    full = draw.random(len(targets)) < 0.7
    related = [
        sets.draw_related(table, targets, full, 5, draw)
        for table in (dictionary.synonyms, dictionary.antonyms)
    ]
    return Selection(np.arange(len(targets)), targets, targets, full, *related)


@settings(max_examples=40)
@given(
    targets=st.lists(st.integers(0, V - 1), min_size=1, max_size=40),
    seed=st.integers(0, 1000),
    kappa=st.integers(1, 12),
)
def test_the_lexical_look_up_gives_the_sets_of_the_loop(
    dictionary: SenseDictionary, targets: list[int], seed: int, kappa: int
) -> None:
    selection = selection_of(dictionary, np.array(targets), seed)
    hidden = torch.randn(len(targets), D, generator=torch.Generator().manual_seed(seed))
    spec = SensesSpec(dictionary="-", candidates="lexical", kappa=kappa)
    retriever = SenseRetriever(dictionary, spec, LossSpec(), 0)
    pull, push = retriever.lexical(selection, hidden)
    found = as_sets(pull, push, len(targets))
    assert found == loop_over_positions(dictionary, selection, hidden, kappa)
    assert found == loop_over_positions_at_once(dictionary, selection, hidden, kappa)


@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=20),
    limit=st.integers(1, 8),
    seed=st.integers(0, 1000),
)
def test_draws_are_subsets_of_their_rows(lengths: list[int], limit: int, seed: int) -> None:
    table = sets.ragged(np.array(lengths), np.arange(sum(lengths)) * 7)
    draw = np.random.default_rng(seed)
    tokens = draw.integers(0, len(lengths), 15)
    enabled = draw.random(15) < 0.8
    drawn = sets.draw_related(table, tokens, enabled, limit, draw)
    for i, token in enumerate(tokens):
        row = drawn.row(i).tolist()
        assert set(row) <= set(table.row(token).tolist())
        assert row == sorted(set(row))
        assert len(row) == (min(limit, lengths[token]) if enabled[i] else 0)


def test_draws_are_uniform() -> None:
    """Each of 6 words is drawn at a third of 6,000 positions that draw 2 words.

    The bound is chi-squared with 5 degrees of freedom, exceeded once in 1,000 seeds.
    """
    table = sets.ragged(np.array([6]), np.arange(6))
    drawn = sets.draw_related(
        table,
        tokens=np.zeros(6000, np.int64),
        enabled=np.ones(6000, bool),
        limit=2,
        generator=np.random.default_rng(0),
    )
    counts = np.bincount(drawn.values, minlength=6)
    assert counts.sum() == 12_000
    assert ((counts - 2000) ** 2 / 2000).sum() < 20.5


@given(
    left=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=20),
    right=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=20),
)
def test_merge_is_the_union(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> None:
    def of(pairs: list[tuple[int, int]]) -> sets.Candidates:
        array = np.array(sorted(pairs), np.int64).reshape(-1, 2)
        return sets.Candidates(array[:, 0], array[:, 1])

    merged = sets.merge(of(left), of(right))
    assert list(zip(merged.positions.tolist(), merged.rows.tolist(), strict=True)) == sorted(
        {*left, *right}
    )


def test_prepend_puts_the_token_before_its_row() -> None:
    joined = sets.prepend(np.array([7, 8, 9]), Ragged(np.array([0, 2, 2, 3]), np.array([1, 2, 3])))
    assert [joined.row(i).tolist() for i in range(3)] == [[7, 1, 2], [8], [9, 3]]


def test_rerank_and_pair_distances_over_several_chunks(
    dictionary: SenseDictionary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dskd_ds.senses.dictionary.distances.CHUNK_ROWS", 70)
    queries = torch.randn(30, D, generator=torch.Generator().manual_seed(3))
    draw = np.random.default_rng(3)
    candidates = np.stack([draw.permutation(len(dictionary.senses))[:33] for _ in range(30)])
    senses = dictionary.senses.double()[torch.from_numpy(candidates)]
    exact = (senses - queries[:, None].double()).square().sum(2)
    found, distances = rerank(dictionary, queries, candidates, 5)
    expected = exact.topk(5, largest=False)
    assert found.tolist() == torch.from_numpy(candidates).gather(1, expected.indices).tolist()
    np.testing.assert_allclose(distances, expected.values.numpy(), rtol=1e-4, atol=1e-4)
    pairs = pair_distances(dictionary, queries, np.repeat(np.arange(30), 33), candidates.flatten())
    np.testing.assert_allclose(pairs, exact.flatten().numpy(), rtol=1e-4, atol=1e-4)


@given(
    num_positions=st.integers(0, 5),
    num_ids=st.integers(0, 9),
    num_owners=st.integers(0, 6),
    seed=st.integers(0, 1000),
)
def test_look_up_compares_each_pair(
    num_positions: int, num_ids: int, num_owners: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    ids = np.array([draw.permutation(12)[:num_ids] for _ in range(num_positions)], np.int64)
    ids = ids.reshape(num_positions, num_ids)
    values = draw.random(ids.shape).astype(np.float32)
    owners = draw.integers(0, 15, (num_positions, num_owners))
    is_there, value = sets.look_up(owners, ids, values)
    same = owners[:, :, None] == ids[:, None, :]
    assert is_there.tolist() == same.any(axis=2).tolist()
    assert value.tolist() == (same * values[:, None, :]).sum(axis=2).tolist()


def test_no_candidates_at_all(dictionary: SenseDictionary) -> None:
    none = sets.Candidates(np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert len(sets.nearest(dictionary, torch.zeros(3, D), none, 5).rows) == 0

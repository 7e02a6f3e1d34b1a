"""The index and its re-ranking against exact search, and when the index is built again."""

from __future__ import annotations

import shutil
from pathlib import Path

import hnswlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_ds.lexicon.relations import TokenRelations
from dskd_ds.senses.dictionary.dictionary import open_dictionary
from dskd_ds.senses.dictionary.distances import rerank
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.senses.dictionary.write import write_dictionary
from dskd_ds.senses.index.graph import (
    build_index,
    ensure_index,
    knn,
    load_graph,
    load_projection,
)
from dskd_ds.spec.senses import SensesSpec

SPEC = SensesSpec(dictionary="-", index_dims=8, index_search_effort=100)


def make_dictionary(folder: Path, num_tokens: int = 40, size: int = 16) -> Path:
    """Write a dictionary of 3 random senses per token and 2 spans. Return its folder."""
    generator = torch.Generator().manual_seed(0)
    owners = np.repeat(np.arange(num_tokens), 3)
    senses = Senses(
        owners, torch.randn(len(owners), size, generator=generator), np.ones(len(owners), np.int64)
    )
    relations = TokenRelations({0: [1, num_tokens]}, {0: [2], 2: [0]}, [(3, 4), (5, 39)])
    write_dictionary(
        folder / "senses",
        senses=senses,
        relations=relations,
        facts={"vocab_size": num_tokens, "layer": -1, "teacher": "t", "tokenizer": "z"},
        num_senses=4,
    )
    return folder / "senses"


def test_index_finds_the_nearest(tmp_path: Path) -> None:
    dictionary = open_dictionary(make_dictionary(tmp_path))
    queries = torch.randn(20, 16, generator=torch.Generator().manual_seed(1))
    facts = build_index(dictionary, SPEC, queries)
    assert facts["recall_at_10"] > 0.95
    candidates = knn(load_graph(dictionary), load_projection(dictionary)(queries), 100)
    found, distances = rerank(dictionary, queries, candidates, 5)
    exact = torch.cdist(queries, dictionary.senses[:120].float()).square()
    nearest = exact.topk(5, largest=False).indices.numpy()
    hits = sum(
        len(np.intersect1d(row, expected)) for row, expected in zip(found, nearest, strict=True)
    )
    assert hits >= 95
    torch.testing.assert_close(
        torch.from_numpy(distances), exact.gather(1, torch.from_numpy(found)), rtol=1e-3, atol=1e-2
    )


def test_an_index_is_rebuilt_only_if_its_settings_or_senses_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another search effort is only measured; the dictionary itself is not touched."""
    dictionary = open_dictionary(make_dictionary(tmp_path))
    queries = torch.randn(20, 16, generator=torch.Generator().manual_seed(1))
    less_effort = SPEC.model_copy(update={"index_search_effort": 10})
    built: list[int] = []
    monkeypatch.setattr(
        "dskd_ds.senses.index.graph.build_index",
        lambda *given: built.append(given[1].index_links) or build_index(*given),
    )
    facts = ensure_index(dictionary, SPEC, queries)
    assert ensure_index(dictionary, SPEC, queries) == facts
    easier = ensure_index(dictionary, less_effort, queries)
    assert easier == facts | {"search_effort": 10, "recall_at_10": easier["recall_at_10"]}
    assert easier["recall_at_10"] < facts["recall_at_10"]
    assert ensure_index(dictionary, less_effort, queries) == easier
    assert built == [SPEC.index_links]
    load_graph(dictionary)  # the files still match their manifest
    other = ensure_index(dictionary, SPEC.model_copy(update={"index_links": 5}), queries)
    assert (other["links"], built) == (5, [SPEC.index_links, 5])
    folder = make_dictionary(tmp_path / "other", size=12)
    shutil.copytree(dictionary.folder / "index", folder / "index")
    rebuilt = ensure_index(open_dictionary(folder), SPEC, torch.randn(4, 12))
    assert rebuilt["of_senses"] != other["of_senses"]


@pytest.mark.parametrize("num_candidates", [150, 200])
def test_an_index_as_small_as_the_candidates_gives_all_rows(num_candidates: int) -> None:
    """With two links per row some rows cannot be reached, and hnswlib refuses to search."""
    centres = np.random.default_rng(0).normal(size=(30, 64)) * 3
    draw = np.random.default_rng(1)
    rows = (centres[np.arange(150) % 30] + draw.normal(size=(150, 64)) * 0.1).astype(np.float32)
    graph = hnswlib.Index(space="l2", dim=64)
    graph.init_index(max_elements=150, M=2, ef_construction=200, random_seed=0)
    graph.add_items(rows, np.arange(150), num_threads=1)
    with pytest.raises(RuntimeError, match="contiguous"):
        graph.knn_query(rows[:5], k=150)
    found = knn(graph, rows[:5], num_candidates)
    assert found.dtype == np.int64
    assert found.flags.c_contiguous  # the service sends its bytes
    np.testing.assert_array_equal(found, np.tile(np.arange(150), (5, 1)))


@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_rerank_is_exact(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    dictionary = open_dictionary(make_dictionary(tmp_path_factory.mktemp("d")))
    queries = torch.randn(3, 16, generator=torch.Generator().manual_seed(seed))
    all_rows = np.tile(np.arange(120), (3, 1))
    candidates = np.random.default_rng(seed).permuted(all_rows, axis=1)[:, :30]
    found, _ = rerank(dictionary, queries, candidates, 4)
    for query, row, pool in zip(queries, found, candidates, strict=True):
        distances = {
            candidate: float((dictionary.senses[candidate].float() - query).square().sum())
            for candidate in pool.tolist()
        }
        expected = sorted(distances.values())[:4]
        assert [distances[r] for r in row.tolist()] == pytest.approx(expected, rel=1e-3)

"""Lexicon and index: each against something slow and obvious."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_ds.errors import InputError
from dskd_ds.sense.cluster import Senses
from dskd_ds.sense.dictionary import open_dictionary, write_dictionary
from dskd_ds.sense.index import build_index, knn, load_graph, load_projection, rerank
from dskd_ds.sense.relations import TokenRelations, token_relations
from dskd_ds.sense.wordnet import base_of, read_wordnet
from dskd_ds.spec.senses import SensesSpec
from dskd_ds.teacher.checkpoint import load_tokenizer
from tests.conftest import TinyWorld

SPEC = SensesSpec(dictionary="-", index_dims=8, index_search_effort=100)


def test_wordnet_sample(tiny: TinyWorld) -> None:
    relations = read_wordnet(tiny.folder / "wordnet")
    assert relations.synonyms["big"] == {"large"}
    assert relations.antonyms["big"] == {"small"}
    assert relations.antonyms["happy"] == {"unhappy", "sad"}  # sad: a synonym of unhappy, whose base happy is
    assert "depository financial institution" in relations.synonyms["bank"]
    assert all(word in relations.antonyms[other] for word, others in relations.antonyms.items() for other in others)


def test_wordnet_damage_is_named(tmp_path: Path, tiny: TinyWorld) -> None:
    with pytest.raises(InputError, match=r"data\.noun cannot be read"):
        read_wordnet(tmp_path)
    for path in (tiny.folder / "wordnet").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "data.verb").open("a") as file:
        file.write("00000001 00 v 0z broken\n")
    with pytest.raises(InputError, match=r"data\.verb, line 3: this is no WordNet synset"):
        read_wordnet(tmp_path)


def test_negating_affixes() -> None:
    assert [base_of(word) for word in ("unhappy", "fearless", "nonstop", "irregular", "un", "less", "into")] == [
        "happy", "fear", "stop", "regular", None, None, None]


def test_relations_of_tokens(tiny: TinyWorld) -> None:
    tokenizer = load_tokenizer(str(tiny.folder / "teacher"))
    relations = token_relations(read_wordnet(tiny.folder / "wordnet"), tokenizer, 500, max_span_tokens=40)
    big, large, small = (tokenizer(f" {word}")["input_ids"][0] for word in ("big", "large", "small"))
    assert relations.synonyms[big] == [large]
    assert relations.antonyms[big] == [small]
    bank = tokenizer(" bank")["input_ids"][0]
    span = relations.spans[relations.synonyms[bank][0] - 500]
    assert tokenizer.decode(span) == " depository financial institution"


def make_dictionary(folder: Path, num_tokens: int = 40, size: int = 16) -> Path:
    generator = torch.Generator().manual_seed(0)
    owners = np.repeat(np.arange(num_tokens), 3)
    senses = Senses(owners, torch.randn(len(owners), size, generator=generator), np.ones(len(owners), np.int64))
    relations = TokenRelations({0: [1, num_tokens]}, {0: [2], 2: [0]}, [(3, 4), (5, 39)])
    write_dictionary(folder / "senses", senses, relations, {"vocab_size": num_tokens, "layer": -1, "teacher": "t", "tokenizer": "z"}, 4)
    return folder / "senses"


def test_index_finds_the_nearest(tmp_path: Path) -> None:
    dictionary = open_dictionary(make_dictionary(tmp_path))
    queries = torch.randn(20, 16, generator=torch.Generator().manual_seed(1))
    facts = build_index(dictionary, SPEC, queries)
    assert facts["recall_at_10"] > 0.95
    found, distances = rerank(dictionary, queries, knn(load_graph(dictionary), load_projection(dictionary)(queries), 100), 5)
    exact = torch.cdist(queries, dictionary.senses[:120].float()).square()
    hits = sum(len(np.intersect1d(row, e)) for row, e in zip(found, exact.topk(5, largest=False).indices.numpy(), strict=True))
    assert hits >= 95
    torch.testing.assert_close(torch.from_numpy(distances), exact.gather(1, torch.from_numpy(found)), rtol=1e-3, atol=1e-2)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_rerank_is_exact(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    dictionary = open_dictionary(make_dictionary(tmp_path_factory.mktemp("d")))
    queries = torch.randn(3, 16, generator=torch.Generator().manual_seed(seed))
    candidates = np.random.default_rng(seed).permuted(np.tile(np.arange(120), (3, 1)), axis=1)[:, :30]
    found, _ = rerank(dictionary, queries, candidates, 4)
    for query, row, pool in zip(queries, found, candidates, strict=True):
        distances = {int(c): float((dictionary.senses[int(c)].float() - query).square().sum()) for c in pool}
        expected = sorted(distances, key=lambda c: distances[c])[:4]
        assert [distances[int(r)] for r in row] == pytest.approx([distances[c] for c in expected], rel=1e-3)

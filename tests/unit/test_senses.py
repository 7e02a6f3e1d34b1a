"""Lexicon, reservoirs, k-means, dictionary, index: each against something slow and obvious."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_ds.errors import InputError
from dskd_ds.sense.cluster import Senses, cluster, kmeans
from dskd_ds.sense.collect import Reservoir, Vectors, forward_batches, position_hashes
from dskd_ds.sense.dictionary import SENSES_FILE, check_belongs, compose_spans, open_dictionary, write_dictionary
from dskd_ds.sense.distances import rerank
from dskd_ds.sense.index import build_index, knn, load_graph, load_projection
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


def vectors(seed: int, number: int, num_tokens: int = 5, size: int = 4) -> Vectors:
    generator = np.random.default_rng(seed)
    return Vectors(generator.integers(0, num_tokens, number), generator.integers(0, 2**63, number).astype(np.uint64),
                   generator.integers(0, 2**16, (number, size)).astype(np.uint16))


@given(seed=st.integers(0, 1000), number=st.integers(0, 60), per_token=st.integers(1, 6), parts=st.integers(1, 4))
def test_a_reservoir_does_not_depend_on_how_it_was_filled(seed: int, number: int, per_token: int, parts: int) -> None:
    everything = vectors(seed, number)
    whole = everything.smallest(per_token)
    for token in range(5):
        expected = sorted(int(h) for h, t in zip(everything.hashes, everything.tokens, strict=True) if t == token)[:per_token]
        assert [int(h) for h in whole.hashes[whole.tokens == token]] == expected
    share = np.random.default_rng(seed + 1).integers(0, parts, number)
    reservoirs = []
    for part in range(parts):
        reservoir = Reservoir(per_token, 4)
        reservoir.add(everything.where(share == part))
        reservoirs.append(reservoir.vectors())
    merged = Vectors.concatenate(reservoirs).smallest(per_token)
    for name in ("tokens", "hashes", "states"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))


def test_position_hashes_name_a_position_of_a_document_wherever_it_is_packed() -> None:
    here = position_hashes(0, {"segment_starts": [0, 3], "doc_digests": [11, -7], "doc_offsets": [5, 0]}, 8)
    there = position_hashes(0, {"segment_starts": [0], "doc_digests": [-7], "doc_offsets": [2]}, 8)
    np.testing.assert_array_equal(here[5:8], there[:3])
    assert len(set(here.tolist())) == 8
    assert not np.array_equal(here, position_hashes(1, {"segment_starts": [0, 3], "doc_digests": [11, -7], "doc_offsets": [5, 0]}, 8))


def test_hashes_are_uniform() -> None:
    row = {"segment_starts": [0], "doc_digests": [123], "doc_offsets": [0]}
    hashes = position_hashes(0, row, 20_000)
    counts = np.histogram(hashes.astype(np.float64) / 2.0**64, bins=20, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 44  # chi-squared, 19 degrees of freedom: 1 in 1,000


@given(num_blocks=st.integers(0, 30), at_once=st.integers(1, 4), size=st.integers(1, 5))
def test_batches_are_fixed_then_dealt(num_blocks: int, at_once: int, size: int) -> None:
    dealt = sorted((b.start, b.stop) for rank in range(size) for b in forward_batches(num_blocks, at_once, rank, size))
    assert dealt == [(b.start, b.stop) for b in forward_batches(num_blocks, at_once, 0, 1)]


def test_kmeans_finds_separate_groups_and_is_repeatable() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = (centres.repeat(20, 1) + torch.randn(60, 2, generator=generator) * 0.1)[None]
    points = torch.cat([points, torch.full((1, 5, 2), 99.0)], dim=1)
    mask = torch.arange(65)[None] < 60
    centroids, sizes = kmeans(points, mask, 3, torch.rand(1, 3, generator=generator))
    assert sorted(sizes[0].tolist()) == [20, 20, 20]
    assert torch.cdist(centres, centroids[0]).min(dim=1).values.max() < 0.2


def test_tokens_with_few_vectors_keep_them_and_others_get_k() -> None:
    everything = vectors(0, 80, num_tokens=3).smallest(1000)
    bounded = Vectors(everything.tokens, everything.hashes, (everything.states % 100 + 16000).astype(np.uint16))
    few = bounded.where((bounded.tokens != 1) | (np.cumsum(bounded.tokens == 1) <= 3))
    senses = cluster(few, 4, seed=0, device=torch.device("cpu"), quiet=True)
    assert np.bincount(senses.owners).tolist() == [4, 3, 4]
    assert senses.counts.sum() == len(few)
    kept = torch.from_numpy(few.states[few.tokens == 1].view(np.int16)).view(torch.bfloat16).float()
    assert torch.equal(senses.centroids[torch.from_numpy(senses.owners == 1)], kept)


def make_dictionary(folder: Path, num_tokens: int = 40, size: int = 16) -> Path:
    generator = torch.Generator().manual_seed(0)
    owners = np.repeat(np.arange(num_tokens), 3)
    senses = Senses(owners, torch.randn(len(owners), size, generator=generator), np.ones(len(owners), np.int64))
    relations = TokenRelations({0: [1, num_tokens]}, {0: [2], 2: [0]}, [(3, 4), (5, 39)])
    write_dictionary(folder / "senses", senses, relations, {"vocab_size": num_tokens, "teacher": "t", "tokenizer": "z"}, 4)
    return folder / "senses"


def test_dictionary_round_trip(tmp_path: Path) -> None:
    dictionary = open_dictionary(make_dictionary(tmp_path))
    assert dictionary.num_token_rows == 120
    assert dictionary.synonyms.row(0).tolist() == [1, 40]
    assert dictionary.antonyms.row(2).tolist() == [0]
    assert dictionary.row_owners[119] == 39
    torch.testing.assert_close(dictionary.squared_norms, dictionary.senses.float().square().sum(1))
    assert dictionary.facts["median_antonym_distance"] == pytest.approx(2.0, abs=1.0)
    check_belongs(dictionary, "t", "z")
    with pytest.raises(InputError, match="built with the teacher t, but this run's is u"):
        check_belongs(dictionary, "u", "z")


def test_span_senses_follow_the_nearest() -> None:
    senses = Senses(np.array([3, 3, 4, 4]), torch.tensor([[0.0], [10.0], [1.0], [8.0]]), np.ones(4, np.int64))
    rows, lengths = compose_spans([(3, 4), (3, 99)], senses, 4)
    assert lengths == [2, 0]
    assert rows.flatten().tolist() == [0.5, 9.0]


@pytest.mark.parametrize("damage", ["truncate", "alter", "remove", "manifest"])
def test_damaged_dictionary_is_refused(tmp_path: Path, damage: str) -> None:
    folder = make_dictionary(tmp_path)
    path = folder / SENSES_FILE
    content = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(content[:-1])
    elif damage == "alter":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "remove":
        path.unlink()
    else:
        (folder / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=str(folder)):
        open_dictionary(folder)


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

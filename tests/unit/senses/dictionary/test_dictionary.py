"""The dictionary on disk: what is written is read, in bounded memory; what is damaged or foreign is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from dskd_ds.errors import InputError
from dskd_ds.files.manifest import write_manifest
from dskd_ds.lexicon.relations import TokenRelations
from dskd_ds.models.resolve import load_tokenizer
from dskd_ds.senses.dictionary.contexts import Context, contexts_table, snippets
from dskd_ds.senses.dictionary.dictionary import (
    SENSES_FILE,
    HeldOut,
    check_belongs,
    open_dictionary,
)
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.senses.dictionary.spans import compose_spans, span_lengths
from dskd_ds.senses.dictionary.tensors import TensorFile
from dskd_ds.senses.dictionary.write import write_dictionary
from tests.conftest import TinyWorld

FACTS: dict[str, Any] = {"vocab_size": 40, "layer": -1, "teacher": "t", "tokenizer": "z"}
TEXTS = [
    (0, 0, Context("the", " bank", " of")),
    (0, 1, Context("a", " river", "")),
    (7, 0, Context("", " x", " y")),
]


def make_dictionary(folder: Path, num_tokens: int = 40, size: int = 16) -> Path:
    generator = torch.Generator().manual_seed(0)
    owners = np.repeat(np.arange(num_tokens), 3)
    senses = Senses(
        owners,
        torch.randn(len(owners), size, generator=generator),
        np.arange(1, len(owners) + 1),
        np.linspace(0, 1, len(owners), dtype=np.float32),
    )
    relations = TokenRelations({0: [1, num_tokens]}, {0: [2], 2: [0]}, [(3, 4), (5, 39)])
    held_out = HeldOut(
        torch.tensor([1, 2]),
        torch.tensor([5, 9], dtype=torch.uint64),
        torch.ones(2, size, dtype=torch.bfloat16),
    )
    table = contexts_table(
        [row for row, _, _ in TEXTS], [rank for _, rank, _ in TEXTS], [text for *_, text in TEXTS]
    )
    write_dictionary(
        folder / "senses",
        senses,
        relations,
        FACTS,
        4,
        [table.slice(0, 2), table.slice(2)],
        held_out,
    )
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
    senses = Senses(
        np.array([3, 3, 4, 4]), torch.tensor([[0.0], [10.0], [1.0], [8.0]]), np.ones(4, np.int64)
    )
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


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    folder = make_dictionary(tmp_path)
    facts = open_dictionary(folder).facts
    (folder / "manifest.json").unlink()
    write_manifest(folder, facts | {"format": 1})
    with pytest.raises(InputError, match="its format is 1, this version reads 2"):
        open_dictionary(folder)
    (folder / SENSES_FILE).write_bytes(
        b"PK" + bytes(100)
    )  # whole, as its manifest says, but something else
    write_manifest(folder, facts)
    with pytest.raises(InputError, match="this is no safetensors file"):
        open_dictionary(folder)


def test_what_format_2_holds(tmp_path: Path) -> None:
    dictionary = open_dictionary(make_dictionary(tmp_path))
    tensors = load_file(dictionary.folder / SENSES_FILE)
    types = {
        "senses": torch.bfloat16,
        "squared_norms": torch.float32,
        "owner_offsets": torch.int64,
        "sense_counts": torch.int64,
        "sense_spread": torch.float32,
        "span_offsets": torch.int64,
        "span_tokens": torch.int64,
        **{f"{r}_{p}": torch.int64 for r in ("synonym", "antonym") for p in ("offsets", "values")},
    }
    assert {name: tensor.dtype for name, tensor in tensors.items()} == types
    assert dictionary.layer == -1
    assert dictionary.sense_counts[:120].tolist() == list(range(1, 121))
    assert dictionary.sense_counts[120:].tolist() == [0] * 6
    torch.testing.assert_close(dictionary.sense_spread[:120], torch.linspace(0, 1, 120))
    assert dictionary.spans.row(1).tolist() == [5, 39]
    assert dictionary.contexts(0) == [TEXTS[0][2], TEXTS[1][2]]
    assert dictionary.contexts_of([7, 8]) == {7: [TEXTS[2][2]], 8: []}
    assert dictionary.held_out().hashes.tolist() == [5, 9]

    class Letters:
        def decode(self, tokens: list[int]) -> str:
            return "".join(chr(65 + token) for token in tokens)

    assert [dictionary.owner_name(owner, Letters()) for owner in (2, 40)] == ["C", "DE"]


@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=4), seed=st.integers(0, 100))
@settings(deadline=None, max_examples=30)
def test_safetensors_reads_a_tensor_file(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("t")
    generator = torch.Generator().manual_seed(seed)
    types = (torch.bfloat16, torch.int64, torch.float32, torch.uint64)
    tensors = {
        f"t{i}": torch.randint(0, 99, (n, 3), generator=generator).to(types[i])
        for i, n in enumerate(sizes)
    }
    file = TensorFile(
        folder / "a",
        {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()},
    )
    for name, tensor in tensors.items():
        file[name].copy_(tensor)
    file.close()
    read = load_file(folder / "a")
    assert set(read) == set(tensors)
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_span_lengths_foretell_what_is_composed() -> None:
    senses = Senses(np.array([0, 0, 0, 1, 3]), torch.arange(10.0).view(5, 2), np.ones(5, np.int64))
    spans = [(0, 1), (1, 0), (0, 2), (3, 3, 0), (2, 0)]
    _, lengths = compose_spans(spans, senses, 2)
    assert span_lengths(spans, np.array([3, 1, 0, 1]), 2).tolist() == lengths == [2, 1, 0, 1, 0]


def test_a_snippet_stays_within_its_document() -> None:
    class Words:
        def batch_decode(self, pieces: list[list[int]], skip_special_tokens: bool) -> list[str]:
            assert skip_special_tokens
            return [" ".join(map(str, piece)) for piece in pieces]

    blocks = [
        {"input_ids": list(range(10)), "segment_starts": [0, 4]},
        {"input_ids": list(range(50, 60)), "segment_starts": [0]},
    ]
    found = snippets(blocks, np.array([2, 3, 4, 12]), 10, Words())
    assert found == [
        Context("0 1 2", "3", ""),
        Context("0 1 2 3", "", ""),
        Context("4", "5", "6 7 8 9"),
        Context("50 51 52", "53", "54 55 56 57 58 59"),
    ]


def test_no_places_have_no_snippets(tiny: TinyWorld) -> None:
    """A real tokenizer makes one empty text of no pieces."""
    assert (
        snippets([], np.zeros(0, np.int64), 10, load_tokenizer(str(tiny.folder / "teacher"))) == []
    )


def test_the_manifest_tells_what_it_is_of(tmp_path: Path) -> None:
    facts = json.loads((make_dictionary(tmp_path) / "manifest.json").read_text())["facts"]
    assert {
        "format",
        "layer",
        "num_rows",
        "num_tokens",
        "num_spans",
        "num_related_tokens",
        "median_antonym_distance",
    } <= set(facts)

"""The dictionary on disk: what is written can be read; damaged or foreign files are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dskd_ds.errors import InputError
from dskd_ds.files.manifest import write_manifest
from dskd_ds.lexicon.relations import TokenRelations
from dskd_ds.senses.dictionary.contexts import Context, contexts_table
from dskd_ds.senses.dictionary.dictionary import (
    SENSES_FILE,
    HeldOut,
    check_belongs,
    open_dictionary,
)
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.senses.dictionary.write import write_dictionary

FACTS: Any = {"vocab_size": 40, "layer": -1, "teacher": "t", "tokenizer": "z"}
TEXTS = [
    (0, 0, Context("the", " bank", " of")),
    (0, 1, Context("a", " river", "")),
    (7, 0, Context("", " x", " y")),
]
"""Row, rank and context."""


def make_dictionary(
    folder: Path, num_tokens: int = 40, size: int = 16, broken: tuple[int, float] | None = None
) -> Path:
    """Write a dictionary of 3 random senses per token and 2 spans. Return its folder.

    broken: a row, and a value that it gets in one dimension.
    """
    generator = torch.Generator().manual_seed(0)
    owners = np.repeat(np.arange(num_tokens), 3)
    senses = Senses(
        owners=owners,
        centroids=torch.randn(len(owners), size, generator=generator),
        counts=np.arange(1, len(owners) + 1),
        spreads=np.linspace(0, 1, len(owners), dtype=np.float32),
    )
    if broken:
        row, value = broken
        senses.centroids[row, 3] = value
    relations = TokenRelations({0: [1, num_tokens]}, {0: [2], 2: [0]}, [(3, 4), (5, 39)])
    held_out = HeldOut(
        tokens=torch.tensor([1, 2]),
        hashes=torch.tensor([5, 9], dtype=torch.uint64),
        states=torch.ones(2, size, dtype=torch.bfloat16),
    )
    rows, ranks, contexts = zip(*TEXTS, strict=True)
    table = contexts_table(rows, ranks, list(contexts))
    write_dictionary(
        folder / "senses",
        senses=senses,
        relations=relations,
        facts=FACTS,
        num_senses=4,
        contexts=[table.slice(0, 2), table.slice(2)],
        held_out=held_out,
    )
    return folder / "senses"


def test_a_dictionary_is_read_as_it_was_written(tmp_path: Path) -> None:
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


def test_rows_may_be_written_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = (make_dictionary(tmp_path / "at-once") / SENSES_FILE).read_bytes()
    monkeypatch.setattr("dskd_ds.senses.dictionary.write.CHUNK_ROWS", 1)
    assert (make_dictionary(tmp_path / "in-chunks") / SENSES_FILE).read_bytes() == at_once


@pytest.mark.parametrize("damage", ["truncate", "alter", "remove", "manifest"])
def test_a_damaged_dictionary_is_refused(tmp_path: Path, damage: str) -> None:
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
    facts: Any = open_dictionary(folder).facts
    (folder / "manifest.json").unlink()
    write_manifest(folder, facts | {"format": 1})
    with pytest.raises(InputError, match="its format is 1, but this version reads 2"):
        open_dictionary(folder)
    # As long as its manifest says, but not a safetensors file.
    (folder / SENSES_FILE).write_bytes(b"PK" + bytes(100))
    write_manifest(folder, facts)
    with pytest.raises(InputError, match="this is not a safetensors file"):
        open_dictionary(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_senses_that_are_not_finite_are_refused_when_it_is_opened(
    tmp_path: Path, value: float
) -> None:
    folder = make_dictionary(tmp_path, broken=(7, value))
    with pytest.raises(InputError, match="1 of its 126 senses are not finite, the first in row 7"):
        open_dictionary(folder, verify=False)


class Letters:
    """A tokenizer that writes token 0 as A, token 1 as B, and so on."""

    def decode(self, tokens: list[int]) -> str:
        return "".join(chr(65 + token) for token in tokens)


def test_what_format_2_holds(tmp_path: Path) -> None:
    dictionary = open_dictionary(make_dictionary(tmp_path))
    tensors = load_file(dictionary.folder / SENSES_FILE)
    dtypes = {
        "senses": torch.bfloat16,
        "squared_norms": torch.float32,
        "owner_offsets": torch.int64,
        "sense_counts": torch.int64,
        "sense_spread": torch.float32,
        "synonym_offsets": torch.int64,
        "synonym_values": torch.int64,
        "antonym_offsets": torch.int64,
        "antonym_values": torch.int64,
        "span_offsets": torch.int64,
        "span_tokens": torch.int64,
    }
    assert {name: tensor.dtype for name, tensor in tensors.items()} == dtypes
    assert dictionary.layer == -1
    assert dictionary.sense_counts[:120].tolist() == list(range(1, 121))
    assert dictionary.sense_counts[120:].tolist() == [0] * 6
    torch.testing.assert_close(dictionary.sense_spread[:120], torch.linspace(0, 1, 120))
    assert dictionary.spans.row(1).tolist() == [5, 39]
    assert dictionary.contexts_of([0, 7, 8]) == {
        0: [TEXTS[0][2], TEXTS[1][2]],
        7: [TEXTS[2][2]],
        8: [],
    }
    assert dictionary.owner_rows(39) == slice(117, 120)
    assert dictionary.held_out().hashes.tolist() == [5, 9]
    assert [dictionary.owner_name(owner, Letters()) for owner in (2, 40)] == ["C", "DE"]


def test_the_manifest_has_the_facts_of_what_was_written(tmp_path: Path) -> None:
    facts = json.loads((make_dictionary(tmp_path) / "manifest.json").read_text())["facts"]
    assert set(facts) - set(FACTS) == {
        "format",
        "num_rows",
        "num_tokens",
        "num_spans",
        "num_related_tokens",
        "median_antonym_distance",
    }

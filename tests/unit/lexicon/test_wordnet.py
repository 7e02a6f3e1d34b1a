"""The WordNet reader: the sample of the tiny world, damaged lines, a missing file."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_ds.errors import InputError
from dskd_ds.lexicon.merge import merge, relations_of
from tests.conftest import TinyWorld
from tests.unit.lexicon.lexicon_files import pairs_of, read_file


def test_sample(tiny: TinyWorld) -> None:
    source = read_file("wordnet", tiny.folder / "wordnet")
    merged = merge([source], {})
    relations = relations_of(merged.table)
    assert relations.synonyms["big"] == {"large"}
    assert relations.antonyms["big"] == {"small"}
    # sad is a synonym of unhappy, whose base is happy
    assert relations.antonyms["happy"] == {"unhappy", "sad"}
    assert "depository financial institution" in relations.synonyms["bank"]
    assert {row["pos"] for row in source.table().to_pylist()} == {"a", "n"}
    assert merged.negations == {"unhappy": "happy"}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.noun cannot be read"):
        read_file("wordnet", tmp_path)


def test_damaged_lines_are_counted_and_skipped(tmp_path: Path, tiny: TinyWorld) -> None:
    for path in (tiny.folder / "wordnet").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damaged = [
        b"00000001 00 v 0z broken\n",
        b"00000002 00 v 02 cut 0\n",
        b"00000003 00 v 01 caf\xe9 0 000 | not UTF-8\n",
    ]
    with (tmp_path / "data.verb").open("ab") as file:
        file.writelines(damaged)
    source = read_file("wordnet", tmp_path)
    assert source.line_counts.num_malformed == 3
    examples = source.line_counts.examples
    assert "data.verb, line 3: not a WordNet synset: '00000001" in examples[0]
    assert "line 5: byte 21 is not valid utf-8" in examples[2]
    assert pairs_of(source) == pairs_of(read_file("wordnet", tiny.folder / "wordnet"))

"""The table of word relations: spelling, the file on disk, the digest of its sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from dskd_ds.errors import InputError
from dskd_ds.lexicon.merge import merge
from dskd_ds.lexicon.sources import lexicon_digest
from dskd_ds.lexicon.table import SourceRows, normalize_word, read_table, write_table
from dskd_ds.spec.lexicons import LexiconSpec
from dskd_ds.spec.senses import SensesSpec
from tests.unit.lexicon.lexicon_files import read_file, write_file
from tests.unit.lexicon.merge_rows import ROWS, Row, merged_of


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("  Hot   Dog ", "hot dog"),
        ("E\u0301te\u0301", "été"),
        ("Thesaurus:x", ""),
        ("123", ""),
        ("", ""),
        ("x" * 61, ""),
        ("se\ufffdor", ""),
    ],
)
def test_words_are_normalized(word: str, expected: str) -> None:
    assert normalize_word(word) == expected


@settings(max_examples=40)
@given(rows=ROWS.filter(lambda rows: any(row[1] != row[3] for row in rows)))
def test_a_written_table_merges_to_itself(
    rows: list[Row], tmp_path_factory: pytest.TempPathFactory
) -> None:
    merged = merged_of(rows)
    path = tmp_path_factory.mktemp("table") / "words.parquet"
    write_table(path, merged.table, merged.negations)
    source = SourceRows("table:words.parquet", "en")
    read_table(path, source)
    again = merge([source], {})
    assert again.table.equals(merged.table)
    assert again.negations == merged.negations


def test_another_file_is_rejected(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    write_file(tmp_path / "b.parquet", "not Parquet")
    for name in ("a.parquet", "b.parquet", "missing.parquet"):
        with pytest.raises(InputError, match="is not a table of word relations"):
            read_file("table", tmp_path / name)


def test_the_digest_depends_on_content_and_not_on_the_folder(tmp_path: Path) -> None:
    def digest(folder: str, text: str) -> str:
        (tmp_path / folder).mkdir(exist_ok=True)
        path = write_file(tmp_path / folder / "own.tsv", text)
        lexicons = (LexiconSpec(kind="tsv", path=str(path)),)
        return lexicon_digest(SensesSpec(dictionary="-", lexicons=lexicons))

    first = digest("a", "big\tsynonym\tlarge\n")
    assert first == digest("b", "big\tsynonym\tlarge\n")
    assert first != digest("c", "big\tantonym\tlarge\n")


@pytest.mark.parametrize(
    "changes",
    [
        {"negation": "replace"},
        {"conflicts": "keep"},
        {"spelling": "as_written"},
        {"max_list_length": 0},
        {"negating_affixes": ("un-",)},
    ],
)
def test_the_digest_depends_on_the_rules(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = write_file(tmp_path / "own.tsv", "big\tsynonym\tlarge\n")
    tree = {"dictionary": "-", "lexicons": ({"kind": "tsv", "path": str(path)},)}
    plain = lexicon_digest(SensesSpec.model_validate(tree))
    # Without changes it is the digest of dictionaries that were built before these keys.
    assert plain == "998c3ce777ce1e95"
    assert lexicon_digest(SensesSpec.model_validate(tree | changes)) != plain

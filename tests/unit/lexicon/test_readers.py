"""What every reader promises: useless files are errors, and no line breaks a reader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_ds.errors import InputError
from tests.unit.lexicon.lexicon_files import WIKTEXTRACT, pairs_of, read_file, write_file


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("tsv", "a b c\n"),
        ("wiktextract", "{\n"),
        ("moby", "alone\n"),
        ("dict2vec", "one two three\n"),
    ],
)
def test_a_file_without_pairs_is_an_error_with_its_first_damaged_line(
    kind: str, text: str, tmp_path: Path
) -> None:
    path = write_file(tmp_path / f"{kind}.txt", text)
    expected = (
        "none of its 1 lines contains a pair .*"
        f' malformed line: {path}, line 1(.|\n)*kind = "{kind}"'
    )
    with pytest.raises(InputError, match=expected):
        read_file(kind, path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_file("tsv", tmp_path / "nowhere.tsv")


KEYS = st.sampled_from(["word", "lang_code", "senses", "synonyms", "glosses", "pos", "redirect"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner),
    max_leaves=9,
)
GOOD_LINES = {
    "wiktextract": json.dumps(WIKTEXTRACT[1]).encode(),
    "mythes": b"unlit|1\n(adj)|dark",
    "moby": b"unlit,dark",
    "tsv": b"unlit\tsynonym\tdark",
    "dict2vec": b"unlit dark",
}
"""Kind of lexicon -> lines with one pair."""


@settings(max_examples=80)
@given(entry=JSON, broken=st.binary(max_size=40), kind=st.sampled_from(sorted(GOOD_LINES)))
def test_no_line_breaks_a_reader(
    entry: object, broken: bytes, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A good line is read, whatever the lines before it contain."""
    if isinstance(entry, dict):
        entry = {"lang_code": "en", "word": "x", **entry}
    path = tmp_path_factory.mktemp("garbage") / "file"
    first = b"UTF-8" if kind == "mythes" else b"#"
    lines = [first, json.dumps(entry).encode(), broken, b"", GOOD_LINES[kind]]
    path.write_bytes(b"\n".join(lines))
    assert ("dark", "synonym", "unlit") in pairs_of(read_file(kind, path))

"""Rules about [[senses.lexicons]] and the keys that say what becomes of their words."""

from __future__ import annotations

import re

import pytest

from dskd_ds.errors import InputError
from dskd_ds.spec import RunSpec, load_spec

BASE = "tests/base_run.toml"


def spec_with(*overrides: str) -> RunSpec:
    return load_spec(BASE, list(overrides))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ['senses.lexicons=[{kind = "wordnet"}]'],
            ["[senses.lexicons.0] path", 'kind = "wordnet" is read from a path'],
        ),
        (
            ['senses.lexicons=[{kind = "pairs"}]'],
            ["[senses.lexicons.0] synonyms", "needs a file of synonyms or of antonyms"],
        ),
        (
            ['senses.lexicons=[{kind = "pairs", path = "x"}]'],
            ["[senses.lexicons.0] path", "a file per relation"],
        ),
        (
            ['senses.lexicons=[{kind = "tsv", path = "x", antonyms = "y"}]'],
            ["[senses.lexicons.0] antonyms", 'kind = "tsv" does not read it', 'set kind = "pairs"'],
        ),
        (
            ['senses.lexicons=[{kind = "moby", path = "x", lists = "senses"}]'],
            ["[senses.lexicons.0] lists", "no lists of entries and senses"],
        ),
        (
            ["senses.negation=replace"],
            ['negation = "replace"', "no [senses] morpholex", "set negation"],
        ),
        (["senses.negating_affixes=['un']"], ["negating_affixes", "neither a prefix nor a suffix"]),
        (["senses.negating_affixes=['-un-']"], ["neither a prefix nor a suffix"]),
        (["senses.negating_affixes=['-']"], ["neither a prefix nor a suffix"]),
    ],
)
def test_a_wrong_lexicon_is_refused(overrides: list[str], expected: list[str]) -> None:
    with pytest.raises(InputError) as error:
        spec_with(*overrides)
    for text in expected:
        assert re.search(re.escape(text), str(error.value)), f"{text} is not in: {error.value}"


def test_the_papers_keys_are_accepted() -> None:
    spec = spec_with(
        'senses.lexicons=[{kind = "pairs", synonyms = "s", antonyms = "a"},'
        ' {kind = "wiktextract", path = "w", lists = "senses"}]',
        "senses.morpholex=MorphoLEX_en.xlsx",
        "senses.negation=replace",
        "senses.negating_affixes=['un-', 'anti-', '-free']",
        "senses.conflicts=keep",
        "senses.spelling=as_written",
        "senses.max_list_length=0",
    )
    assert [lexicon.files for lexicon in spec.senses.lexicons] == [("s", "a"), ("w",)]

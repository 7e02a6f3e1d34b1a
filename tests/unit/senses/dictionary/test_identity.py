"""What two dictionaries, or two collections, must have in common to be the same."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dskd_ds.errors import InputError
from dskd_ds.files.manifest import MANIFEST_FILE
from dskd_ds.runtime.mpi import Communicator
from dskd_ds.senses.build.build import has_key
from dskd_ds.senses.dictionary.dictionary import FORMAT, SenseDictionary, open_dictionary
from dskd_ds.senses.dictionary.facts import CorpusKey, DictionaryKey
from dskd_ds.senses.dictionary.identity import (
    COMPUTED,
    check_settings,
    collection_digest,
    collection_digests,
    corpus_digest,
    dictionary_key,
    word_rules,
)
from dskd_ds.spec import RunSpec, load_spec
from tests.conftest import TinyWorld
from tests.of_spec import teacher_of, train_blocks_of


def spec_of_text(tiny: TinyWorld, path: Path, text: str) -> RunSpec:
    """Write a text and return a spec whose corpus is all of it."""
    path.write_text(text)
    corpus = f'data.train=[{{path="{path}"}}]'
    return load_spec(tiny.spec_file, [corpus, "data.heldout=[]", "data.heldout_fraction=0.0"])


def test_a_corpus_is_identified_by_its_content(tiny: TinyWorld, tmp_path: Path) -> None:
    text = (tiny.folder / "train.jsonl").read_text()
    spec = spec_of_text(tiny, tmp_path / "a.jsonl", text)
    digest = corpus_digest(train_blocks_of(spec))
    os.utime(tmp_path / "a.jsonl", (1, 1))
    assert corpus_digest(train_blocks_of(spec)) == digest
    copied = spec_of_text(tiny, tmp_path / "elsewhere.jsonl", text)
    assert corpus_digest(train_blocks_of(copied)) == digest
    changed = spec_of_text(tiny, tmp_path / "b.jsonl", text.replace("river", "money", 1))
    assert corpus_digest(train_blocks_of(changed)) != digest


def test_a_collection_depends_on_what_the_teacher_reads(tiny: TinyWorld) -> None:
    """It depends neither on what is made of it, nor on the dictionary that is refreshed."""
    spec = load_spec(tiny.spec_file)
    blocks = train_blocks_of(spec)

    def key(*overrides: str) -> DictionaryKey:
        spec = load_spec(tiny.spec_file, list(overrides))
        return dictionary_key(spec, teacher_of(spec), blocks, Communicator())

    collection = collection_digest(key())
    assert collection_digest(key("senses.num_senses=2", "senses.lexicons=[]")) == collection
    refreshing: DictionaryKey = key() | {"refreshes": "an old dictionary"}
    assert collection_digest(refreshing) == collection
    for change in (
        "senses.collect_tokens=2048",
        "senses.min_confidence=0.5",
        "seed=7",
        "teacher.dtype=bfloat16",
        "teacher.compile=true",
    ):
        assert collection_digest(key(change)) != collection, change


@pytest.mark.parametrize("change", ["teacher.dtype=bfloat16", "teacher.compile=true"])
def test_each_of_several_texts_depends_on_how_the_teacher_computes(
    tiny: TinyWorld, change: str
) -> None:
    texts: list[CorpusKey] = [{"corpus": "a", "collect_tokens": 9, "vectors_per_token": 3}]
    before, after = (
        collection_digests(dictionary_key(spec, teacher_of(spec), None, Communicator(), texts))
        for spec in (load_spec(tiny.spec_file), load_spec(tiny.spec_file, [change]))
    )
    assert before != after


def test_a_dictionary_is_kept_if_it_does_not_say_how_its_teacher_computed(
    tiny: TinyWorld, dictionary: SenseDictionary
) -> None:
    """`auto` stands for what it is on this machine; dictionaries of before do not record it."""
    spec = load_spec(tiny.spec_file, [f"senses.dictionary={dictionary.folder}"])
    key = dictionary_key(spec, teacher_of(spec), train_blocks_of(spec), Communicator())
    manifest = dictionary.folder / MANIFEST_FILE
    recorded = json.loads(manifest.read_text())
    present = dict(key)
    old = {name: value for name, value in present.items() if name not in COMPUTED}
    for facts, is_kept in (
        (present, True),
        (old, True),
        (present | {"dtype": "float16"}, False),
        (present | {"compiled": True}, False),
        (old | {"seed": 7}, False),
    ):
        manifest.write_text(json.dumps(recorded | {"facts": {"format": FORMAT} | facts}))
        assert has_key(spec, key) == is_kept, facts
    named = load_spec(tiny.spec_file, [f"teacher.dtype={key['dtype']}"])
    assert dictionary_key(named, teacher_of(named), train_blocks_of(spec), Communicator()) == key


def test_ranks_that_compute_in_different_formats_are_refused(tiny: TinyWorld) -> None:
    """`auto` is another format on a node with another processor."""
    spec = load_spec(tiny.spec_file)
    comm: Any = SimpleNamespace(all_ranks_equal=lambda digest: digest != b"float32")
    named = load_spec(tiny.spec_file, ["teacher.dtype=float32"])
    with pytest.raises(InputError, match=r"dtype = .* another node.*\n  set \[teacher\] dtype"):
        dictionary_key(named, teacher_of(named), train_blocks_of(spec), comm)


def test_a_spec_must_have_the_settings_of_its_dictionary(
    tiny: TinyWorld, dictionary: SenseDictionary
) -> None:
    spec = load_spec(tiny.spec_file)
    built = replace(dictionary, facts={"settings": {"num_senses": 4, "min_span_tokens": 1}})
    check_settings(built, spec)
    other = load_spec(tiny.spec_file, ["senses.num_senses=5"])
    expected = r"\[senses\] num_senses = 5, but .* was built with 4.\n.*dskd senses build"
    with pytest.raises(InputError, match=expected):
        check_settings(built, other)


def built_by(tiny: TinyWorld, dictionary: SenseDictionary, *overrides: str) -> SenseDictionary:
    """Return the dictionary as if it was built with these words."""
    rules = word_rules(load_spec(tiny.spec_file, list(overrides)).senses)
    return replace(dictionary, facts={"word_rules": json.loads(json.dumps(rules))})


FRENCH = 'senses.lexicons=[{kind="wordnet", path="x", language="fr"}]'
TABLE = 'senses.lexicons=[{kind="table", path="merged.parquet"}]'


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("senses.max_list_length=3", "max_list_length = 3, but .* built with 256"),
        ("senses.spelling=as_written", 'spelling = "as_written", but .* built with "normalised"'),
        ("senses.conflicts=keep", "conflicts"),
        ("senses.negating_affixes=[]", "negating_affixes"),
        ("senses.lexicons=[]", "lexicons are none, but .* was built with wordnet en"),
        ("senses.morpholex=segments.xlsx", "lexicons are wordnet en, morpholex, but"),
        (FRENCH, "lexicons are wordnet fr, but"),
    ],
)
def test_a_spec_must_relate_words_as_its_dictionary_does(
    tiny: TinyWorld, dictionary: SenseDictionary, change: str, expected: str
) -> None:
    """The lexicons themselves need not be there, and may have been merged into a table before."""
    spec, other = load_spec(tiny.spec_file), load_spec(tiny.spec_file, [change])
    check_settings(built_by(tiny, dictionary), spec)
    check_settings(built_by(tiny, dictionary, change), other)
    with pytest.raises(InputError, match=rf"\[senses\] {expected}"):
        check_settings(built_by(tiny, dictionary), other)
    check_settings(replace(dictionary, facts={}), other)
    check_settings(built_by(tiny, dictionary, TABLE), spec)
    moved = load_spec(tiny.spec_file, ['senses.lexicons=[{kind="wordnet", path="elsewhere"}]'])
    check_settings(built_by(tiny, dictionary), moved)


@pytest.mark.parametrize(("exact", "shortest"), [(False, 1), (True, 2)])
def test_dictionaries_of_earlier_versions_are_read(
    tiny: TinyWorld, dictionary: SenseDictionary, exact: bool, shortest: int
) -> None:
    """They recorded `paper_exact`, and dropped related words without senses."""
    manifest = dictionary.folder / MANIFEST_FILE
    recorded = json.loads(manifest.read_text())
    recorded["facts"]["settings"] = {"num_senses": 4, "paper_exact": exact}
    manifest.write_text(json.dumps(recorded))
    opened = open_dictionary(dictionary.folder, verify=False)
    settings = {"num_senses": 4, "min_span_tokens": shortest, "relations_without_senses": "drop"}
    assert opened.facts["settings"] == settings
    check_settings(opened, load_spec(tiny.spec_file, [f"senses.min_span_tokens={shortest}"]))

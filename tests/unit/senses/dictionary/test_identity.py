"""What two dictionaries, or two collections, must have in common to be the same."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from dskd_ds.errors import InputError
from dskd_ds.files.manifest import MANIFEST_FILE
from dskd_ds.runtime.mpi import Communicator
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, open_dictionary
from dskd_ds.senses.dictionary.facts import DictionaryKey
from dskd_ds.senses.dictionary.identity import (
    check_settings,
    collection_digest,
    corpus_digest,
    dictionary_key,
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
    for change in ("senses.collect_tokens=2048", "senses.min_confidence=0.5", "seed=7"):
        assert collection_digest(key(change)) != collection, change


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

"""What makes two dictionaries, or two collections, the same."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dskd_ds.errors import InputError
from dskd_ds.runtime.mpi import Communicator
from dskd_ds.senses.build.build import forget_work, work_folders
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.dictionary.identity import (
    check_settings,
    collection_digest,
    corpus_digest,
    dictionary_key,
)
from dskd_ds.spec import RunSpec, load_spec
from tests.conftest import TinyWorld
from tests.of_spec import teacher_of, train_blocks_of


def of_text(tiny: TinyWorld, path: Path, text: str, *overrides: str) -> RunSpec:
    path.write_text(text)
    return load_spec(
        tiny.spec_file,
        [
            f'data.train=[{{path="{path}"}}]',
            "data.heldout=[]",
            "data.heldout_fraction=0.0",
            *overrides,
        ],
    )


def test_a_corpus_is_its_content(tiny: TinyWorld, tmp_path: Path) -> None:
    text = (tiny.folder / "train.jsonl").read_text()
    first = of_text(tiny, tmp_path / "a.jsonl", text)
    same = corpus_digest(train_blocks_of(first))
    os.utime(tmp_path / "a.jsonl", (1, 1))
    assert corpus_digest(train_blocks_of(first)) == same
    assert corpus_digest(train_blocks_of(of_text(tiny, tmp_path / "elsewhere.jsonl", text))) == same
    assert (
        corpus_digest(
            train_blocks_of(of_text(tiny, tmp_path / "b.jsonl", text.replace("river", "money", 1)))
        )
        != same
    )


def test_what_a_collection_depends_on(tiny: TinyWorld) -> None:
    """Neither on what is made of it, nor on the dictionary that is to take it in."""
    spec = load_spec(tiny.spec_file)
    blocks = train_blocks_of(spec)

    def key(*overrides: str) -> dict[str, Any]:
        spec = load_spec(tiny.spec_file, list(overrides))
        return dictionary_key(spec, teacher_of(spec), blocks, Communicator())

    collection = collection_digest(key())
    assert collection_digest(key("senses.num_senses=2", "senses.lexicons=[]")) == collection
    assert collection_digest(key() | {"refreshes": "an old dictionary"}) == collection
    for change in ("senses.collect_tokens=2048", "senses.min_confidence=0.5", "seed=7"):
        assert collection_digest(key(change)) != collection, change


@pytest.mark.parametrize("kept", [False, True])
def test_what_a_killed_build_left_goes_once_the_dictionary_is_whole(
    tiny: TinyWorld, tmp_path: Path, kept: bool
) -> None:
    overrides = [f"senses.dictionary={tmp_path / 'senses'}"] + (
        [f"senses.collection_dir={tmp_path / 'kept'}"] if kept else []
    )
    spec = load_spec(tiny.spec_file, overrides)
    key = dictionary_key(spec, teacher_of(spec), train_blocks_of(spec), Communicator())
    collection, parts = work_folders(spec, key)
    (collection / "rank-0000").mkdir(parents=True)
    parts.mkdir()
    forget_work(spec, key)
    assert not parts.exists()
    assert (collection / "rank-0000").is_dir() == kept


def test_a_spec_says_what_its_dictionary_is(tiny: TinyWorld, dictionary: SenseDictionary) -> None:
    spec = load_spec(tiny.spec_file)
    built = replace(dictionary, facts={"settings": {"num_senses": 4, "paper_exact": False}})
    check_settings(built, spec)
    with pytest.raises(
        InputError,
        match=r"\[senses\] num_senses = 5, but .* was built with 4.\n.*dskd senses build",
    ):
        check_settings(built, load_spec(tiny.spec_file, ["senses.num_senses=5"]))

"""Pairs from WordNet's example sentences: what is found, and what the pairs promise."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dskd_ds.errors import InputError
from dskd_ds.senses.intrinsic.examples import Occurrence, base_forms, build_pairs, read_occurrences
from tests.unit.senses.intrinsic.known import LEMMAS, write_examples


def test_occurrences_are_found_inflected_and_have_words_before_them(tmp_path: Path) -> None:
    folder = write_examples(tmp_path / "wordnet")
    examples = '"two cities were built"; "city of light"; "a City-like town"'
    with (folder / "data.noun").open("a") as file:
        file.write(f"00009999 00 n 01 city 0 000 | a town; {examples}\n")
    found = read_occurrences(folder)
    cities = [
        (item.text, item.text[item.start : item.end]) for item in found if item.synset == "00009999"
    ]
    # of the other two, one begins its text, and one is another word
    assert cities == [("two cities were built", "cities")]
    assert {item.lemma for item in found} == set(LEMMAS)


def test_base_forms() -> None:
    assert base_forms("boxes", "noun", {}) == {"boxes", "boxe", "box"}


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.noun: the file cannot be read"):
        read_occurrences(tmp_path)


@st.composite
def occurrences(draw: st.DrawFn) -> Occurrence:
    """Draw an occurrence of one of five lemmas, in one of three synsets of two fields."""
    lemma = draw(st.sampled_from(["bank", "bark", "pear", "seal", "crow"]))
    synset, meaning_field = draw(st.sampled_from([("1", "05"), ("2", "05"), ("3", "17")]))
    filler = draw(st.text("abc", min_size=1, max_size=3))
    start = len(f"the {filler} ")
    return Occurrence(
        lemma=lemma,
        pos="noun",
        synset=synset,
        meaning_field=meaning_field,
        text=f"the {filler} {lemma}",
        start=start,
        end=start + len(lemma),
    )


ITEMS = st.lists(occurrences(), max_size=60)


@given(items=ITEMS, max_pairs=st.integers(0, 12))
def test_pairs_are_balanced_and_split_by_lemma(items: list[Occurrence], max_pairs: int) -> None:
    pairs = build_pairs(items, max_pairs)
    assert len(pairs) <= max_pairs
    for lemma in {pair.lemma for pair in pairs}:
        of_lemma = [pair for pair in pairs if pair.lemma == lemma]
        assert sorted(pair.same_synset for pair in of_lemma) == [False, True]
        assert len({pair.for_tuning for pair in of_lemma}) == 1
    for pair in pairs:
        assert pair.left.lemma == pair.right.lemma
        assert pair.left.text != pair.right.text
        assert pair.same_synset == (pair.left.meaning_field == pair.right.meaning_field)


@given(items=ITEMS, max_pairs=st.integers(0, 12), shuffle=st.randoms())
def test_pairs_do_not_depend_on_order_and_are_in_larger_samples(
    items: list[Occurrence], max_pairs: int, shuffle: random.Random
) -> None:
    pairs = build_pairs(items, max_pairs)
    shuffled = list(items)
    shuffle.shuffle(shuffled)
    assert build_pairs(shuffled, max_pairs) == pairs
    assert set(pairs) <= set(build_pairs(items, 1000))


def test_both_splits_are_used(tmp_path: Path) -> None:
    pairs = build_pairs(read_occurrences(write_examples(tmp_path / "wordnet")), 1000)
    share = sum(pair.for_tuning for pair in pairs) / len(pairs)
    assert 0.1 < share < 0.6

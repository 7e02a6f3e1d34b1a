"""From a typed word to the owners of senses, and from tokens to words."""

from __future__ import annotations

from typing import Any

import pytest

from dskd_ds.errors import InputError
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.look.forms import forms_of, similar_words, words_with_senses
from tests.unit.senses.look.known import COUNTS, owner_of


def test_only_forms_with_senses_are_found(dictionary: SenseDictionary, tokenizer: Any) -> None:
    (form,) = forms_of(dictionary, tokenizer, "Bank")  # only the lower-case form has senses
    assert (form.text, form.owner) == ("bank", owner_of(tokenizer, "bank"))
    assert dictionary.sense_counts[form.rows(dictionary)].tolist() == [50, 30, 20]


def test_a_phrase_is_a_span(dictionary: SenseDictionary, tokenizer: Any) -> None:
    (phrase,) = forms_of(dictionary, tokenizer, "bank money")
    assert phrase.owner == 500


def test_an_unknown_word_is_explained(dictionary: SenseDictionary, tokenizer: Any) -> None:
    expected = (
        r"banq: no senses in .*: its tokens are ' .*' .*\n"
        r"  words of similar spelling that have senses: bank"
    )
    with pytest.raises(InputError, match=expected):
        forms_of(dictionary, tokenizer, "banq")


def test_a_token_without_vectors_is_explained(dictionary: SenseDictionary, tokenizer: Any) -> None:
    with pytest.raises(InputError, match="it is a single token, but the teacher's text gave that"):
        forms_of(dictionary, tokenizer, "city")


def test_words_that_differ_only_in_case_are_the_most_similar(
    dictionary: SenseDictionary, tokenizer: Any
) -> None:
    assert similar_words(dictionary, tokenizer, "BANK")[0] == "bank"


def test_words_with_senses_are_whole_words(dictionary: SenseDictionary, tokenizer: Any) -> None:
    assert set(words_with_senses(dictionary, tokenizer).values()) == set(COUNTS)

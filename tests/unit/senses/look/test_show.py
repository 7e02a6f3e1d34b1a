"""`dskd senses show`: what is shown of a word, and snippets of text."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dskd_ds.senses.dictionary.contexts import Context
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.look import show


def test_senses_are_ordered_by_frequency(dictionary: SenseDictionary, tokenizer: Any) -> None:
    (view,) = show.look_up(dictionary, tokenizer, "bank")
    facts = [(sense.number, sense.count, sense.share) for sense in view.senses]
    assert facts == [(1, 50, 0.5), (2, 30, 0.3), (3, 20, 0.2)]
    assert [sense.nearest[0].word for sense in view.senses[:2]] == ["money", "river"]
    text = show.render(view)
    assert "sense 1: 50% of the vectors (50)" in text
    assert "»word« after" in text


def test_related_words_are_named(dictionary: SenseDictionary, tokenizer: Any) -> None:
    (view,) = show.look_up(dictionary, tokenizer, "happy")
    assert (view.synonyms, view.antonyms) == (["glad", "bank money"], ["sad"])


def test_a_phrase_is_composed(dictionary: SenseDictionary, tokenizer: Any) -> None:
    (view,) = show.look_up(dictionary, tokenizer, "bank money")
    assert "composed from the senses of its tokens" in show.render(view)


@given(
    left=st.text(" ab", max_size=30), right=st.text(" ab\n", max_size=30), width=st.integers(4, 12)
)
def test_snippets_keep_the_token_in_its_column(left: str, right: str, width: int) -> None:
    text = show.snippet(Context(left, " bank", right), width)
    assert text.index("»") == width
    assert "\n" not in text
    assert len(text) <= 2 * width + 6

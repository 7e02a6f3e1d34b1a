"""Relations of tokens: both forms of a word are heads, and long lists are thinned evenly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dskd_ds.lexicon.merge import Relations
from dskd_ds.lexicon.relations import TokenRules, token_relations
from dskd_ds.lexicon.words import RunningText
from dskd_ds.models.resolve import load_tokenizer
from tests.conftest import TinyWorld
from tests.unit.lexicon.tokenizer_kinds import KINDS, byte_level, llama2_style, sentencepiece

FORMS = ["happy", "Happy", "glad", "Glad", "sad", "Sad", "house"]


@pytest.mark.parametrize("kind", KINDS)
def test_both_forms_of_a_word_are_heads(kind: str) -> None:
    tokenizer = KINDS[kind][0]()
    relations = Relations()
    relations.add("happy", "glad", is_antonym=False)
    relations.add("happy", "sad", is_antonym=True)
    relations.add("house", "work time", is_antonym=False)
    related = token_relations(relations, tokenizer, len(tokenizer), TokenRules(4))
    encoded = RunningText(tokenizer).encode_words(FORMS)
    single = {word: ids[0] for word, ids in zip(FORMS, encoded, strict=True) if len(ids) == 1}
    assert {"happy", "glad", "house"} <= single.keys()
    assert related.synonyms[single["happy"]] == [single["glad"]]
    if "Happy" in single and single["Happy"] != single["happy"]:
        # a related word is capitalised, too, if that form is one token
        capital = single["Happy"]
        assert related.antonyms[capital] == [single.get("Sad", single.get("sad"))]
        assert related.synonyms[capital] == [single.get("Glad", single["glad"])]
        assert related.words[capital] == "Happy"
    span = related.synonyms[single["house"]][0] - len(tokenizer)
    assert related.span_texts[span] == "work time"
    assert tokenizer.decode(list(related.spans[span])).strip() == "work time"


@pytest.mark.parametrize("make", [byte_level, sentencepiece, llama2_style])
def test_short_words_of_scripts_without_spaces_are_heads(make: Callable[[], Any]) -> None:
    tokenizer = make()
    relations = Relations()
    relations.add("银行", "时间", is_antonym=False)
    (bank,), (time,) = RunningText(tokenizer).encode_words(["银行", "时间"])
    assert token_relations(relations, tokenizer, len(tokenizer), TokenRules(3)).synonyms[bank] == [
        time
    ]


def test_a_long_list_of_relations_is_thinned_evenly(tiny: TinyWorld) -> None:
    tokenizer = load_tokenizer(str(tiny.folder / "teacher"))
    relations = Relations()
    others = ["bank", "city", "early", "home", "late", "money", "open", "river", "town", "water"]
    for other in others:
        relations.add("big", other, is_antonym=False)
    related = token_relations(relations, tokenizer, 500, TokenRules(1, max_list_length=4))
    head = tokenizer(" big")["input_ids"][0]
    kept = [tokenizer.decode([token]).strip() for token in related.synonyms[head]]
    assert kept == ["bank", "home", "open", "water"]

"""How tokenizers write words: five kinds that are trained here, and SmolLM2's if it was fetched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dskd_ds.lexicon.words import RunningText, capitalised, is_unspaced
from dskd_ds.models.resolve import load_tokenizer
from dskd_ds.spec import dskd_home
from tests.unit.lexicon.tokenizer_kinds import KINDS, byte_level, llama2_style, sentencepiece

HOME = dskd_home()
"""The home folder before any test sets another one."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_has_the_tokens_that_a_text_has(kind: str) -> None:
    """Compare with the slow way: encode a whole sentence and find the tokens under the word."""
    make, rule = KINDS[kind]
    tokenizer = make()
    encoder = RunningText(tokenizer)
    assert encoder.spacing_rule() == rule
    for sentence in ("the happy house is big", "people work in time", "Happy people are sad"):
        encoded = tokenizer(sentence, add_special_tokens=False, return_offsets_mapping=True)
        tokens = list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
        for word in sentence.split()[1:]:
            start = sentence.index(f" {word}") + 1
            end = start + len(word)
            under_word = tuple(
                token
                for token, (token_start, token_end) in tokens
                if token_start < end and token_end > start
            )
            assert encoder.encode_words([word])[0] == under_word, word


@pytest.mark.parametrize("make", [byte_level, sentencepiece, llama2_style])
def test_words_of_scripts_without_spaces_are_single_tokens(make: Callable[[], Any]) -> None:
    tokenizer = make()
    words = ["银行", "时间", "happy"]
    encoded = RunningText(tokenizer).encode_words(words)
    assert all(len(ids) == 1 for ids in encoded)
    assert [tokenizer.decode(list(ids)).strip() for ids in encoded] == words


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("银行", True),
        ("ひらがな", True),
        ("ไทย", True),
        ("été", False),
        ("русский", False),
        ("", False),
    ],
)
def test_scripts_without_spaces(word: str, expected: bool) -> None:
    assert is_unspaced(word) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("happy", "Happy"),
        ("été", "Été"),
        ("hot dog", "Hot dog"),
        ("ﬁn", "ﬁn"),
        ("银行", "银行"),
        ("", ""),
    ],
)
def test_capitals(word: str, expected: str) -> None:
    assert capitalised(word) == expected


def test_smollm2() -> None:
    folders = sorted((HOME / "models").glob("SmolLM2*/config.json"))
    if not folders:
        pytest.skip("SmolLM2 has not been fetched (make quickstart)")
    tokenizer = load_tokenizer(str(folders[0].parent))
    encoder = RunningText(tokenizer)
    assert encoder.spacing_rule() == "with its leading space"
    words = ["happy", "Happy", "unhappy", "hot dog", "été"]
    expected = [tuple(tokenizer(f" {word}")["input_ids"]) for word in words]
    assert encoder.encode_words(words) == expected
    assert encoder.decode_tokens(list(encoder.encode_words(["happy"])[0])) == [" happy"]

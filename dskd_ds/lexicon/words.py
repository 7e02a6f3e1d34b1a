"""How a tokenizer writes a word in running text, found by asking it.

Byte-level BPE and tiktoken-style vocabularies put the space into the word's first token, SentencePiece writes it as `▁` and adds one
at the start of a text by itself, WordPiece drops it, and some keep it as a token of its own. So a word is encoded behind a carrier
(`a word`), and the carrier's tokens are taken off. Words of scripts without spaces follow their carrier directly.
"""

from __future__ import annotations

import unicodedata
from typing import Any

CARRIERS = ("a", "the", "so")
UNSPACED_CARRIERS = ("。", "、", "\n")
"""Tried one after the other: one token may hold the end of the carrier and the beginning of a word."""
PROBES = ("house", "time", "water", "people", "work")
UNSPACED_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


def is_unspaced(word: str) -> bool:
    """Whether the word's script writes words without spaces between them."""
    return unicodedata.name(word[:1], "").startswith(UNSPACED_SCRIPTS) if word else False


def capitalised(word: str) -> str:
    """With its first letter in upper case; the word itself where that makes no difference, or more than one letter."""
    first = word[:1].upper()
    return first + word[1:] if len(first) == 1 else word


class RunningText:
    """The tokens of words, as they stand inside of a text."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._space: tuple[int, ...] = ()
        """The token of a space, where every word has it before its own."""
        first = {tokens[0] for tokens in self.tokens(PROBES) if tokens}
        if len(first) == 1 and not tokenizer.decode(list(first)).strip():
            self._space = tuple(first)

    def tokens(self, words: list[str] | tuple[str, ...]) -> list[tuple[int, ...]]:
        """Token ids of each word, nothing where the tokenizer never keeps word and carrier apart."""
        found: dict[str, tuple[int, ...]] = {}
        for carriers, space in ((CARRIERS, " "), (UNSPACED_CARRIERS, "")):
            missing = [word for word in dict.fromkeys(words) if is_unspaced(word) == (space == "")]
            for carrier in carriers:
                if missing:
                    found |= self._after(carrier, space, missing)
                    missing = [word for word in missing if word not in found]
        return [found.get(word, ()) for word in words]

    def _after(self, carrier: str, space: str, words: list[str]) -> dict[str, tuple[int, ...]]:
        head, *encoded = self._encode([carrier, *(f"{carrier}{space}{word}" for word in words)])
        kept = {
            word: tuple(ids[len(head) :])
            for word, ids in zip(words, encoded, strict=True)
            if ids[: len(head)] == head
        }
        cut = len(self._space)
        return {
            word: ids[cut:] if cut and ids[:cut] == self._space else ids
            for word, ids in kept.items()
            if len(ids) > cut
        }

    def texts(self, tokens: list[int]) -> list[str]:
        """What each token adds to a text, its leading space included."""
        carrier = self._encode([CARRIERS[0]])[0]
        before, *after = self._tokenizer.batch_decode(
            [carrier, *([*carrier, token] for token in tokens)], clean_up_tokenization_spaces=False
        )
        return [text[len(before) :] if text.startswith(before) else "" for text in after]

    def rule(self) -> str:
        """For people: how a word is written, compared with the word alone and behind a space."""
        inside, spaced, alone = (
            self.tokens(PROBES),
            self._encode([f" {w}" for w in PROBES]),
            self._encode(list(PROBES)),
        )
        same_spaced, same_alone = (
            all(tuple(a) == b for a, b in zip(ids, inside, strict=True)) for ids in (spaced, alone)
        )
        if self._space:
            return "a space is a token of its own"
        if same_spaced and same_alone:
            return "alike with and without a space before it"
        return (
            "with its leading space"
            if same_spaced
            else "as at the start of a text"
            if same_alone
            else "as inside of a text only"
        )

    def _encode(self, texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

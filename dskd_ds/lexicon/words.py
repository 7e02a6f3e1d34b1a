"""How a tokenizer writes a word in running text, found by encoding examples.

Byte-level BPE and tiktoken-style vocabularies put the space into the word's first token.
SentencePiece writes the space as `▁` and adds one at the start of a text. WordPiece drops the
space. Some tokenizers keep it as a separate token. To cover all of them, a word is encoded after
a carrier (`a word`), and the carrier's tokens are removed. In scripts without spaces the word
follows its carrier directly.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

CARRIERS = ("a", "the", "so")
"""Tried in this order, because one token may cover the end of a carrier and the start of a word."""
UNSPACED_CARRIERS = ("。", "、", "\n")
"""Carriers for scripts without spaces, tried in this order."""
PROBES = ("house", "time", "water", "people", "work")
"""Words that show where a tokenizer puts the space."""
UNSPACED_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")

TokenIds = tuple[int, ...]


def is_unspaced(word: str) -> bool:
    """Return whether the word's script has no spaces between words."""
    if not word:
        return False
    return unicodedata.name(word[0], "").startswith(UNSPACED_SCRIPTS)


def capitalised(word: str) -> str:
    """Return the word with its first letter in upper case.

    Returns the word unchanged if upper case makes no difference or gives more than one letter.
    """
    first = word[:1].upper()
    return first + word[1:] if len(first) == 1 else word


class RunningText:
    """Encodes words as they are written inside a text."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._space: TokenIds = ()
        """The token of a space, if the tokenizer keeps it separate from the word; else empty."""
        first_tokens = {tokens[0] for tokens in self.encode_words(PROBES) if tokens}
        if len(first_tokens) == 1 and not tokenizer.decode(list(first_tokens)).strip():
            self._space = tuple(first_tokens)

    def encode_words(self, words: Sequence[str]) -> list[TokenIds]:
        """Return the token ids of each word.

        A word's ids are empty if the tokenizer joins it with every carrier.
        """
        distinct_words = list(dict.fromkeys(words))
        spaced = [word for word in distinct_words if not is_unspaced(word)]
        unspaced = [word for word in distinct_words if is_unspaced(word)]
        found: dict[str, TokenIds] = {}
        for missing, carriers, space in (
            (spaced, CARRIERS, " "),
            (unspaced, UNSPACED_CARRIERS, ""),
        ):
            # Only words that the carriers before could not separate are encoded again.
            for carrier in carriers:
                if missing:
                    found |= self._encode_after(carrier, space, missing)
                    missing = [word for word in missing if word not in found]
        return [found.get(word, ()) for word in words]

    def _encode_after(self, carrier: str, space: str, words: list[str]) -> dict[str, TokenIds]:
        """Return the token ids of the words that stay separate from the carrier."""
        texts = [f"{carrier}{space}{word}" for word in words]
        carrier_ids, *encoded = self._encode([carrier, *texts])
        found: dict[str, TokenIds] = {}
        for word, ids in zip(words, encoded, strict=True):
            # A token may cover the end of the carrier and the start of the word.
            if ids[: len(carrier_ids)] != carrier_ids:
                continue
            word_ids = tuple(ids[len(carrier_ids) :])
            num_space = len(self._space)
            if len(word_ids) <= num_space:
                continue
            if num_space and word_ids[:num_space] == self._space:
                word_ids = word_ids[num_space:]
            found[word] = word_ids
        return found

    def decode_tokens(self, tokens: list[int]) -> list[str]:
        """Return what each token adds to a text, including its leading space."""
        carrier = self._encode([CARRIERS[0]])[0]
        sequences = [carrier, *([*carrier, token] for token in tokens)]
        carrier_text, *texts = self._tokenizer.batch_decode(
            sequences, clean_up_tokenization_spaces=False
        )
        return [
            text[len(carrier_text) :] if text.startswith(carrier_text) else "" for text in texts
        ]

    def spacing_rule(self) -> str:
        """Return how a word inside a text is written, as the end of a sentence "a word is written".

        It is compared with the word alone and with the word after a space.
        """
        if self._space:
            return "after a separate token for the space"
        inside = self.encode_words(PROBES)
        after_space = [tuple(ids) for ids in self._encode([f" {word}" for word in PROBES])]
        alone = [tuple(ids) for ids in self._encode(list(PROBES))]
        if after_space == inside and alone == inside:
            return "the same with and without a space before it"
        if after_space == inside:
            return "with its leading space"
        if alone == inside:
            return "as at the start of a text"
        return "in a way that occurs only inside a text"

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids of each text, without special tokens."""
        ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

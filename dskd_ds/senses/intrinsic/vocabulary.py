"""Words that are single tokens, and those of them that have senses in a dictionary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dskd_ds.lexicon.words import RunningText
from dskd_ds.senses.dictionary.dictionary import SenseDictionary

Dictionaries = Mapping[str, SenseDictionary]
"""Name -> dictionary."""


def word_tokens(tokenizer: Any, words: Sequence[str]) -> dict[str, int]:
    """Return word -> its token, of the words that are a single token in running text."""
    encoded = RunningText(tokenizer).encode_words(words)
    return {word: ids[0] for word, ids in zip(words, encoded, strict=True) if len(ids) == 1}


def with_senses(dictionary: SenseDictionary, tokens: Mapping[str, int]) -> dict[str, int]:
    """Return word -> token, of the words whose token has senses."""
    num_senses = np.diff(dictionary.owner_offsets)
    return {word: token for word, token in tokens.items() if num_senses[token]}

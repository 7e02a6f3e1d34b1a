"""Find the owners (tokens or spans) of a word that a user typed, and the words of tokens."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dskd_ds.errors import InputError
from dskd_ds.lexicon.words import RunningText, TokenIds, capitalised, is_unspaced
from dskd_ds.senses.dictionary.dictionary import SenseDictionary

NUM_SUGGESTIONS = 5
"""Words of similar spelling that are suggested for an unknown word."""


@dataclass(frozen=True)
class Form:
    """A way to write a word that has senses."""

    text: str
    """The form as it is written in running text, without the space before it."""
    owner: int
    """The token or span that has the senses."""

    def rows(self, dictionary: SenseDictionary) -> NDArray[np.int64]:
        """Return the dictionary rows of the form's senses, the most frequent first."""
        span = dictionary.owner_rows(self.owner)
        rows = np.arange(span.start, span.stop)
        return rows[np.argsort(-dictionary.sense_counts[rows], kind="stable")]


def forms_of(dictionary: SenseDictionary, tokenizer: Any, word: str) -> list[Form]:
    """Return the forms of a word that have senses: as typed, in lower case, capitalised.

    Raises InputError with words of similar spelling if no form has senses.
    """
    typed = word.strip()
    spellings = list(dict.fromkeys([typed, typed.lower(), capitalised(typed.lower())]))
    encoded = RunningText(tokenizer).encode_words(spellings)
    spans = _span_owners(dictionary)
    num_senses = np.diff(dictionary.owner_offsets)
    found: dict[int, Form] = {}
    for spelling, tokens in zip(spellings, encoded, strict=True):
        owner = tokens[0] if len(tokens) == 1 else spans.get(tokens)
        if owner is not None and num_senses[owner]:
            # A tokenizer that ignores case gives two spellings one owner; the typed one is kept.
            found.setdefault(owner, Form(spelling, owner))
    if not found:
        message = _no_senses_message(dictionary, tokenizer, word=word, tokens=encoded[0])
        raise InputError(message)
    return list(found.values())


def _span_owners(dictionary: SenseDictionary) -> dict[TokenIds, int]:
    """Return tokens of a span -> its owner id."""
    num_spans = len(dictionary.spans.offsets) - 1
    return {
        tuple(dictionary.spans.row(i).tolist()): dictionary.vocab_size + i for i in range(num_spans)
    }


def _no_senses_message(
    dictionary: SenseDictionary, tokenizer: Any, word: str, tokens: TokenIds
) -> str:
    """Return the error message for a word without senses. tokens: the word's as it was typed."""
    if len(tokens) == 1:
        reason = "it is a single token, but the teacher's text gave that token no vectors"
    elif tokens:
        texts = " + ".join(repr(tokenizer.decode([token])) for token in tokens)
        reason = f"its tokens are {texts}, and only single tokens and the lexicons' short phrases"
        reason += " have senses"
    else:
        reason = "the tokenizer always joins it with the word before it"
    similar = similar_words(dictionary, tokenizer, word)
    if similar:
        hint = f"words of similar spelling that have senses: {', '.join(similar)}."
    else:
        hint = "try another word."
    return (
        f"{word}: no senses in {dictionary.folder}: {reason}.\n  {hint}\n"
        "  a dictionary built from more text ([senses] collect_tokens) has more words."
    )


def words_with_senses(dictionary: SenseDictionary, tokenizer: Any) -> dict[int, str]:
    """Return token -> word, of tokens with senses that are whole words of two letters or more.

    People recognize such a token by its text alone.
    """
    num_senses = np.diff(dictionary.owner_offsets[: dictionary.vocab_size + 1])
    tokens = np.flatnonzero(num_senses).tolist()
    texts = RunningText(tokenizer).decode_tokens(tokens)
    words: dict[int, str] = {}
    for token, text in zip(tokens, texts, strict=True):
        word = text.strip()
        starts_a_word = text.startswith(" ") or is_unspaced(text)
        if starts_a_word and len(word) > 1 and word.isalpha():
            words[token] = word
    return words


def rows_of(dictionary: SenseDictionary, owners: Iterable[int]) -> NDArray[np.int64]:
    """Return all dictionary rows of some owners, ascending."""
    is_wanted = np.zeros(len(dictionary.owner_offsets) - 1, bool)
    is_wanted[list(owners)] = True
    return np.flatnonzero(is_wanted[dictionary.row_owners])


def similar_words(dictionary: SenseDictionary, tokenizer: Any, word: str) -> list[str]:
    """Return words with senses that are spelled similarly, the most similar first."""
    typed = word.strip()
    words = sorted(set(words_with_senses(dictionary, tokenizer).values()))
    same_but_for_case = [other for other in words if other.lower() == typed.lower()]
    close = difflib.get_close_matches(typed, words, n=NUM_SUGGESTIONS, cutoff=0.7)
    return list(dict.fromkeys([*same_but_for_case, *close]))

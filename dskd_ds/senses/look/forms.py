"""A word as a user types it -> its owners in a dictionary (tokens, or a span), and owners' names back."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dskd_ds.errors import InputError
from dskd_ds.lexicon.words import RunningText, capitalised, is_unspaced
from dskd_ds.senses.dictionary.dictionary import SenseDictionary


@dataclass(frozen=True)
class Form:
    """A way to write a word that has senses."""

    text: str
    """As it is written in running text, without the space before it."""
    owner: int

    def rows(self, dictionary: SenseDictionary) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Rows of its senses, the most frequent first."""
        rows = np.arange(
            dictionary.owner_offsets[self.owner], dictionary.owner_offsets[self.owner + 1]
        )
        return rows[np.argsort(-dictionary.sense_counts[rows], kind="stable")]


def forms_of(dictionary: SenseDictionary, tokenizer: Any, word: str) -> list[Form]:
    """The forms of a word that have senses: as typed, in lower case, capitalised. Raises InputError, naming near words, if none has."""
    spellings = list(
        dict.fromkeys([word.strip(), word.strip().lower(), capitalised(word.strip().lower())])
    )
    spans = {
        tuple(dictionary.spans.row(i).tolist()): dictionary.vocab_size + i
        for i in range(len(dictionary.spans.offsets) - 1)
    }
    found: dict[int, Form] = {}
    written = RunningText(tokenizer).tokens(spellings)
    for spelling, tokens in zip(spellings, written, strict=True):
        owner = tokens[0] if len(tokens) == 1 else spans.get(tokens)
        if (
            owner is not None
            and dictionary.owner_offsets[owner + 1] > dictionary.owner_offsets[owner]
        ):
            found.setdefault(owner, Form(spelling, owner))
    if not found:
        raise InputError(_unknown(dictionary, tokenizer, word, written[0]))
    return list(found.values())


def _unknown(
    dictionary: SenseDictionary, tokenizer: Any, word: str, pieces: tuple[int, ...]
) -> str:
    if len(pieces) == 1:
        reason = "it is a token, but the teacher's text gave it no vector"
    else:
        written = (
            " + ".join(repr(tokenizer.decode([token])) for token in pieces)
            or "not kept apart from the word before"
        )
        reason = f"its tokens are {written}, and senses belong to single tokens and to the lexicon's short phrases"
    near = near_words(dictionary, tokenizer, word)
    hint = (
        f"words with senses that are spelt like it: {', '.join(near)}."
        if near
        else "try another word."
    )
    return (
        f"{word}: it has no senses in {dictionary.folder}: {reason}.\n  {hint}\n"
        "  a dictionary from more text ([senses] collect_tokens) knows more words."
    )


def words_with_senses(dictionary: SenseDictionary, tokenizer: Any) -> dict[int, str]:
    """Tokens with senses that are whole words of two letters or more, and the words: what a reader knows by its name alone."""
    tokens = np.flatnonzero(np.diff(dictionary.owner_offsets[: dictionary.vocab_size + 1])).tolist()
    texts = zip(tokens, RunningText(tokenizer).texts(tokens), strict=True)
    return {
        token: text.strip()
        for token, text in texts
        if len(text.strip()) > 1
        and text.strip().isalpha()
        and (text.startswith(" ") or is_unspaced(text))
    }


def rows_of(
    dictionary: SenseDictionary, owners: Iterable[int]
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """All rows of some owners, ascending."""
    wanted = np.zeros(len(dictionary.owner_offsets) - 1, bool)
    wanted[list(owners)] = True
    return np.flatnonzero(wanted[dictionary.row_owners])


def near_words(dictionary: SenseDictionary, tokenizer: Any, word: str) -> list[str]:
    """Words with senses that are spelt alike, nearest first."""
    names = sorted(set(words_with_senses(dictionary, tokenizer).values()))
    same = [name for name in names if name.lower() == word.strip().lower()]
    return list(
        dict.fromkeys([*same, *difflib.get_close_matches(word.strip(), names, n=5, cutoff=0.7)])
    )

"""Relations of words -> relations of tokens. Related words of several tokens become spans with ids behind the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dskd_ds.lexicon.merge import Relations
from dskd_ds.lexicon.words import RunningText, capitalised, is_unspaced

MIN_HEAD_CHARACTERS = 3
"""A head word is longer than 2 characters (paper); not so in scripts without spaces, where most words are shorter."""
MAX_RELATED = 256
"""At most so many related words are kept of a longer list (Moby has some): every n-th by alphabet, so that no letter is favoured."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths: row i is `values[offsets[i]:offsets[i + 1]]`."""

    offsets: Ints
    values: Ints

    def row(self, index: int) -> Ints:
        """Row `index`."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def lengths(self) -> Ints:
        """Length of every row."""
        return np.diff(self.offsets)

    @staticmethod
    def from_dict(rows: dict[int, list[int]], num_rows: int) -> Ragged:
        """Rows by number; those that are missing are empty."""
        lengths = np.zeros(num_rows, np.int64)
        for index, row in rows.items():
            lengths[index] = len(row)
        ordered = [np.asarray(rows[index], np.int64) for index in sorted(rows)]
        values = np.concatenate(ordered) if ordered else np.zeros(0, np.int64)
        return Ragged(np.concatenate([[0], np.cumsum(lengths)]), values)


@dataclass(frozen=True)
class TokenRelations:
    """Owners related to each token. An owner below `vocab_size` is a token, one from there on a span."""

    synonyms: dict[int, list[int]]
    antonyms: dict[int, list[int]]
    spans: list[tuple[int, ...]]
    """Tokens of span number i, whose owner id is vocab_size + i."""
    words: dict[int, str] = field(default_factory=dict)
    """The word that a head token is."""
    span_texts: list[str] = field(default_factory=list)
    """The word that span number i is."""


def token_relations(
    relations: Relations,
    tokenizer: Any,
    vocab_size: int,
    max_span_tokens: int,
    min_span_tokens: int = 1,
) -> TokenRelations:
    """Map words to tokens as they are written inside of a text (see RunningText).

    Head words are single tokens, in lower case or with a capital: both have the word's relations. Related words have
    min_span_tokens..max_span_tokens (paper: 2..3; ours takes single ones too). Behind a capitalised head stands the related word's
    capitalised form if that is a single token, else its lower-case one: capitalised spans would double the dictionary and say nothing new.
    """
    encoder = RunningText(tokenizer)
    words = relations.words()
    lower, upper = (
        dict(zip(words, encoder.tokens(forms), strict=True))
        for forms in (words, [capitalised(word) for word in words])
    )
    span_ids: dict[tuple[int, ...], int] = {}
    span_texts: list[str] = []

    def owner(tokens: tuple[int, ...], word: str) -> int:
        if len(tokens) == 1:
            return tokens[0]
        if tokens not in span_ids:
            span_ids[tokens] = vocab_size + len(span_ids)
            span_texts.append(word)
        return span_ids[tokens]

    def owners(others: set[str], with_capital: bool) -> list[int]:
        forms = [
            (upper[o] if with_capital and len(upper[o]) == 1 else lower[o], o)
            for o in sorted(others)
        ]
        fitting = [form for form in forms if min_span_tokens <= len(form[0]) <= max_span_tokens]
        return [
            owner(tokens, o) for tokens, o in fitting[:: max(1, -(-len(fitting) // MAX_RELATED))]
        ]

    heads = _heads(words, lower, upper)
    synonyms, antonyms = (
        _by_token(
            [(token, owners(table.get(word, set()), form is upper)) for token, word, form in heads]
        )
        for table in (relations.synonyms, relations.antonyms)
    )
    for (
        token,
        opposites,
    ) in (
        antonyms.items()
    ):  # two words may share a token, where a tokenizer drops accents or capitals
        synonyms[token] = [o for o in synonyms.get(token, ()) if o not in opposites]
    names = {
        token: capitalised(word) if form is upper else word for token, word, form in reversed(heads)
    }
    return TokenRelations(
        _without_empty(synonyms), _without_empty(antonyms), list(span_ids), names, span_texts
    )


Forms = dict[str, tuple[int, ...]]


def _heads(words: list[str], lower: Forms, upper: Forms) -> list[tuple[int, str, Forms]]:
    """(token, word, the form it is in) of every head."""
    long_enough = [word for word in words if len(word) >= MIN_HEAD_CHARACTERS or is_unspaced(word)]
    return [
        (form[word][0], word, form)
        for word in long_enough
        for form in (lower, upper)
        if len(form[word]) == 1 and (form is lower or form[word] != lower[word])
    ]


def _by_token(rows: list[tuple[int, list[int]]]) -> dict[int, list[int]]:
    """Rows of the same token joined; a token is no relation of itself."""
    joined: dict[int, list[int]] = {}
    for token, owners in rows:
        joined[token] = [o for o in dict.fromkeys([*joined.get(token, ()), *owners]) if o != token]
    return joined


def _without_empty(rows: dict[int, list[int]]) -> dict[int, list[int]]:
    return {token: owners for token, owners in rows.items() if owners}

"""Turn relations of words into relations of tokens.

Related words of several tokens become spans, with ids after the end of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dskd_ds.lexicon.edges import EdgeCounts, count_edges
from dskd_ds.lexicon.merge import Relations
from dskd_ds.lexicon.words import RunningText, TokenIds, capitalised, is_unspaced
from dskd_ds.spec.senses import SensesSpec

MIN_HEAD_CHARACTERS = 3
"""Minimum length of a head word (the paper requires more than 2 characters). Scripts without
spaces are exempt, because most of their words are shorter."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths: row i is `values[offsets[i]:offsets[i + 1]]`."""

    offsets: Ints
    values: Ints

    def row(self, index: int) -> Ints:
        """Return row `index`."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def lengths(self) -> Ints:
        """Return the length of every row."""
        return np.diff(self.offsets)

    @staticmethod
    def from_dict(rows: dict[int, list[int]], num_rows: int) -> Ragged:
        """Build `num_rows` rows from a dict of row index -> row; rows not in the dict are empty."""
        lengths = np.zeros(num_rows, np.int64)
        for index, row in rows.items():
            lengths[index] = len(row)
        ordered = [np.asarray(rows[index], np.int64) for index in sorted(rows)]
        values = np.concatenate(ordered) if ordered else np.zeros(0, np.int64)
        return Ragged(np.concatenate([[0], np.cumsum(lengths)]), values)


@dataclass(frozen=True)
class TokenRelations:
    """Owners related to each token. An owner below `vocab_size` is a token, any other a span."""

    synonyms: dict[int, list[int]]
    antonyms: dict[int, list[int]]
    spans: list[TokenIds]
    """Tokens of the span with index i, whose owner id is vocab_size + i."""
    words: dict[int, str] = field(default_factory=dict)
    """Head token -> the word that it is."""
    span_texts: list[str] = field(default_factory=list)
    """The word that the span with index i is."""
    edges: EdgeCounts = field(default_factory=EdgeCounts)
    """How many relations of words became relations of tokens."""


@dataclass(frozen=True)
class TokenRules:
    """How relations of words become relations of tokens: the keys of [senses] with these names."""

    max_span_tokens: int
    min_span_tokens: int = 1
    max_list_length: int = 256
    """A longer list of related words (Moby has some) is thinned to at most this many: every n-th
    in alphabetical order, so that no letter is favoured. 0: no limit."""
    spelling: Literal["normalised", "as_written"] = "normalised"
    conflicts: Literal["resolve", "keep"] = "resolve"

    @classmethod
    def of(cls, senses: SensesSpec) -> TokenRules:
        """Return the rules of a spec."""
        return cls(
            max_span_tokens=senses.max_span_tokens,
            min_span_tokens=senses.min_span_tokens,
            max_list_length=senses.max_list_length,
            spelling=senses.spelling,
            conflicts=senses.conflicts,
        )


@dataclass(frozen=True)
class _Forms:
    """Token ids of every word, in both forms."""

    lower: dict[str, TokenIds]
    """Of the word as the table spells it: in lower case, unless spelling = "as_written"."""
    capitalised: dict[str, TokenIds]
    """The same as `lower` if spelling = "as_written"."""


@dataclass(frozen=True)
class _Head:
    """A word that is a single token in one of its forms."""

    token: int
    word: str
    """As the table spells it."""
    is_capitalised: bool


class _Owners:
    """Gives related words their owner ids; a word of several tokens gets a new span id."""

    def __init__(self, forms: _Forms, vocab_size: int, rules: TokenRules) -> None:
        self._forms, self._vocab_size, self._rules = forms, vocab_size, rules
        self._span_ids: dict[TokenIds, int] = {}
        self.span_texts: list[str] = []

    @property
    def spans(self) -> list[TokenIds]:
        """Tokens of each span, in order of the ids."""
        return list(self._span_ids)

    def of_words(self, words: set[str], for_capitalised: bool) -> list[int]:
        """Return the owners of a head's related words that have a permitted number of tokens.

        for_capitalised: whether the head is capitalised.
        """
        permitted: list[tuple[TokenIds, str]] = []
        for word in sorted(words):
            tokens = self._tokens(word, for_capitalised)
            if self._rules.min_span_tokens <= len(tokens) <= self._rules.max_span_tokens:
                permitted.append((tokens, word))
        limit = self._rules.max_list_length or len(permitted)
        step = max(1, -(-len(permitted) // max(1, limit)))  # rounded up
        return [self._owner(tokens, word) for tokens, word in permitted[::step]]

    def _tokens(self, word: str, for_capitalised: bool) -> TokenIds:
        """Return the capitalised form beside a capitalised head if it is one token, else the lower.

        Capitalised spans would double the dictionary without adding information.
        """
        if for_capitalised and len(self._forms.capitalised[word]) == 1:
            return self._forms.capitalised[word]
        return self._forms.lower[word]

    def _owner(self, tokens: TokenIds, word: str) -> int:
        """Return the token itself, or the id of the span of these tokens."""
        if len(tokens) == 1:
            return tokens[0]
        if tokens not in self._span_ids:
            self._span_ids[tokens] = self._vocab_size + len(self._span_ids)
            self.span_texts.append(word)
        return self._span_ids[tokens]


def token_relations(
    relations: Relations, tokenizer: Any, vocab_size: int, rules: TokenRules
) -> TokenRelations:
    """Map words to tokens as they are written inside a text (see RunningText).

    A head word is a single token, in lower case or capitalised; both forms have the relations of
    the word. Related words have min_span_tokens..max_span_tokens tokens (paper: 2..3; the default
    also takes single tokens). See `_Owners` for the form of a related word. With spelling =
    "as_written" a word has one form only.
    """
    words = relations.words()
    forms = _forms(words, RunningText(tokenizer), rules)
    heads = _heads(words, forms)
    owners = _Owners(forms, vocab_size, rules)
    synonyms = _by_token(heads, relations.synonyms, owners)
    antonyms = _by_token(heads, relations.antonyms, owners)
    if rules.conflicts == "resolve":
        # Two words share a token if the tokenizer drops accents or capitals. One word's synonym
        # can then be the other's antonym; the antonym wins.
        for token, opposites in antonyms.items():
            kept = [owner for owner in synonyms.get(token, ()) if owner not in opposites]
            synonyms[token] = kept
    names: dict[int, str] = {}
    for head in reversed(heads):  # the first of several heads with one token names it
        names[head.token] = capitalised(head.word) if head.is_capitalised else head.word
    return TokenRelations(
        synonyms=_without_empty(synonyms),
        antonyms=_without_empty(antonyms),
        spans=owners.spans,
        words=names,
        span_texts=owners.span_texts,
        edges=count_edges(relations, forms.lower, {head.word for head in heads}),
    )


def _forms(words: Sequence[str], encoder: RunningText, rules: TokenRules) -> _Forms:
    """Encode every word in the forms that a head may have."""
    lower = dict(zip(words, encoder.encode_words(words), strict=True))
    if rules.spelling == "as_written":
        return _Forms(lower, lower)
    upper = encoder.encode_words([capitalised(word) for word in words])
    return _Forms(lower, dict(zip(words, upper, strict=True)))


def _heads(words: Sequence[str], forms: _Forms) -> list[_Head]:
    """Return every form of a word that can be a head; equal forms of a word count once."""
    heads: list[_Head] = []
    for word in words:
        if len(word) < MIN_HEAD_CHARACTERS and not is_unspaced(word):
            continue
        lower, upper = forms.lower[word], forms.capitalised[word]
        if len(lower) == 1:
            heads.append(_Head(lower[0], word, is_capitalised=False))
        if len(upper) == 1 and upper != lower:
            heads.append(_Head(upper[0], word, is_capitalised=True))
    return heads


def _by_token(
    heads: Sequence[_Head], table: dict[str, set[str]], owners: _Owners
) -> dict[int, list[int]]:
    """Return head token -> owners of its related words, each once and without the token itself."""
    joined: dict[int, list[int]] = {}
    for head in heads:
        related = owners.of_words(table.get(head.word, set()), head.is_capitalised)
        distinct = dict.fromkeys([*joined.get(head.token, ()), *related])
        joined[head.token] = [owner for owner in distinct if owner != head.token]
    return joined


def _without_empty(rows: dict[int, list[int]]) -> dict[int, list[int]]:
    """Return the rows that are not empty."""
    return {token: owners for token, owners in rows.items() if owners}

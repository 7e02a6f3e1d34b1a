"""Relations of words -> relations of tokens. Related words of several tokens become spans with ids behind the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dskd_ds.sense.wordnet import Relations

MIN_HEAD_CHARACTERS = 3
"""A head word is longer than 2 characters (paper)."""
MAX_RELATED = 256
"""More related words than this are never drawn from; the first in alphabetical order are kept."""

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


def token_relations(relations: Relations, tokenizer: Any, vocab_size: int, max_span_tokens: int,
                    min_span_tokens: int = 1) -> TokenRelations:
    """Map words to tokens as they are written after a space.

    Head words are single tokens; related words have min_span_tokens..max_span_tokens (paper: 2..3; ours takes single ones too).
    """
    words = relations.words()
    encoded = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
    tokens = {word: tuple(ids) for word, ids in zip(words, encoded, strict=True)}
    heads = {word: ids[0] for word, ids in tokens.items() if len(ids) == 1 and len(word) >= MIN_HEAD_CHARACTERS}
    span_ids: dict[tuple[int, ...], int] = {}

    def owners(others: set[str]) -> list[int]:
        fitting = [tokens[o] for o in sorted(others) if min_span_tokens <= len(tokens[o]) <= max_span_tokens][:MAX_RELATED]
        return [ids[0] if len(ids) == 1 else span_ids.setdefault(ids, vocab_size + len(span_ids)) for ids in fitting]

    synonyms = {head: owners(relations.synonyms.get(word, set())) for word, head in heads.items()}
    antonyms = {head: owners(relations.antonyms.get(word, set())) for word, head in heads.items()}
    return TokenRelations(_without_empty(synonyms), _without_empty(antonyms), list(span_ids))


def _without_empty(rows: dict[int, list[int]]) -> dict[int, list[int]]:
    return {token: owners for token, owners in rows.items() if owners}

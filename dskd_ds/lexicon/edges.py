"""Counts which relations of words can become relations of tokens, by length in tokens.

An edge leads from a head word, which must be a single token, to one of its related words. How many
edges are lost depends on the tokenizer and on the permitted lengths of related words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from dskd_ds.errors import InputError
from dskd_ds.lexicon.merge import Relations

MIN_HEADS_PER_THOUSAND = 1
"""With fewer heads per thousand words, the tokenizer does not fit the words."""


@dataclass
class EdgeCounts:
    """How many words are heads, and how long the related words are, in tokens.

    Words count in the form in which the lexicons spell them.
    """

    num_words: int = 0
    """Words with relations."""
    num_heads: int = 0
    """Words that are a single token in one of their forms, and long enough."""
    num_without_head: int = 0
    """Edges whose first word is not a head."""
    by_length: Counter[int] = field(default_factory=Counter)
    """Number of edges from a head, by the length of the related word; 0 for a word that cannot be
    written in running text."""

    def kept(self, min_tokens: int, max_tokens: int) -> int:
        """Return the number of edges from heads to words of these lengths."""
        return sum(self.by_length[length] for length in range(min_tokens, max_tokens + 1))

    def describe(self, min_tokens: int, max_tokens: int) -> str:
        """Return how many edges stay, for a report. The lengths are those that are permitted."""
        num_edges = self.by_length.total()
        kept = self.kept(min_tokens, max_tokens)
        lengths = [f"{self.by_length[length]:,} of {length}" for length in range(1, max_tokens + 1)]
        longer = num_edges - self.by_length[0] - self.kept(1, max_tokens)
        return (
            f"{self.num_heads:,} of {self.num_words:,} words are heads (a single token);"
            f" {self.num_without_head:,} edges do not start at one.\n"
            f"edges from heads, by the related word's tokens: {', '.join(lengths)},"
            f" {longer:,} longer, {self.by_length[0]:,} that cannot be written;"
            f" kept: {kept:,} of {num_edges:,} ({min_tokens} to {max_tokens} tokens)."
        )


def count_edges(
    relations: Relations, tokens_of: Mapping[str, tuple[int, ...]], heads: set[str]
) -> EdgeCounts:
    """Count the edges of both relations. tokens_of: of every word. heads: the words that are."""
    counts = EdgeCounts(num_words=len(tokens_of), num_heads=len(heads))
    for table in (relations.synonyms, relations.antonyms):
        for word, others in table.items():
            if word not in heads:
                counts.num_without_head += len(others)
                continue
            for other in others:
                counts.by_length[len(tokens_of[other])] += 1
    return counts


def refuse_few_heads(counts: EdgeCounts, tokenizer_name: str) -> None:
    """Raise InputError if almost no word is a single token.

    That is the case for a tokenizer of bytes, or of another language. Mistral's in its legacy form
    gives two tokens to a word with a leading space, but not to a word inside a text.
    """
    if counts.num_heads * 1000 < counts.num_words * MIN_HEADS_PER_THOUSAND:
        raise InputError(
            f"[[senses.lexicons]]: of {counts.num_words:,} words only {counts.num_heads:,} are a"
            f" single token of the tokenizer of {tokenizer_name}, so training would find almost no"
            " synonyms and antonyms.\n"
            "  use another tokenizer of the model, check the language of the lexicons, or set"
            ' [senses] candidates = "neighbours" and remove the lexicons.'
        )

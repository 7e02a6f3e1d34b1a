"""Which relations of words are lost as relations of tokens, and when a tokenizer is refused."""

from __future__ import annotations

import pytest

from dskd_ds.errors import InputError
from dskd_ds.lexicon.edges import EdgeCounts, refuse_few_heads
from dskd_ds.lexicon.merge import Relations
from dskd_ds.lexicon.relations import TokenRules, token_relations
from tests.unit.lexicon.tokenizer_kinds import byte_level


def test_edges_are_counted_by_length() -> None:
    tokenizer = byte_level()
    relations = Relations()
    for other, is_antonym in (("glad", False), ("sad", True), ("big house", False)):
        relations.add("happy", other, is_antonym)
    relations.add("unhappy", "sad", is_antonym=False)  # unhappy has 5 tokens
    counts = token_relations(relations, tokenizer, len(tokenizer), TokenRules(3)).edges
    # happy, glad and sad are heads; big house and unhappy are not.
    assert (counts.num_words, counts.num_heads, counts.num_without_head) == (5, 3, 2)
    assert counts.by_length == {1: 4, 2: 1, 5: 1}
    assert [counts.kept(1, 3), counts.kept(2, 3), counts.kept(1, 5)] == [5, 1, 6]
    shown = counts.describe(2, 3)
    assert "3 of 5 words are heads" in shown
    assert "4 of 1, 1 of 2, 0 of 3, 1 longer, 0 that cannot be written" in shown
    assert "kept: 1 of 6 (2 to 3 tokens)" in shown


@pytest.mark.parametrize(
    ("num_words", "num_heads", "is_refused"),
    [(0, 0, False), (5, 0, True), (5, 1, False), (20_000, 19, True), (20_000, 20, False)],
)
def test_a_tokenizer_without_heads_is_refused(
    num_words: int, num_heads: int, is_refused: bool
) -> None:
    counts = EdgeCounts(num_words=num_words, num_heads=num_heads)
    if not is_refused:
        refuse_few_heads(counts, "a/model")
        return
    message = f"of {num_words:,} words only {num_heads:,} are a single token .* of a/model"
    with pytest.raises(InputError, match=message):
        refuse_few_heads(counts, "a/model")

"""Merging sources: order does not matter, conflicts are resolved, negations flip polarity."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_ds.lexicon.merge import relations_of
from dskd_ds.lexicon.sources import read_lexicon
from dskd_ds.spec.senses import SensesSpec
from tests.unit.lexicon.merge_rows import ROWS, Row, merged_of


@settings(max_examples=60)
@given(rows=ROWS, data=st.data())
def test_merging_does_not_depend_on_order(rows: list[Row], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(rows))
    turned = [
        (language, other, is_antonym, word, pos, name)
        for language, word, is_antonym, other, pos, name in shuffled
    ]
    first, second = merged_of(rows), merged_of(turned)
    assert first.table.equals(second.table)
    assert first.negations == second.negations
    assert first.num_conflicts == second.num_conflicts


@settings(max_examples=60)
@given(rows=ROWS)
def test_merged_relations_are_symmetric_and_free_of_conflicts(rows: list[Row]) -> None:
    relations = relations_of(merged_of(rows).table)
    for table in (relations.synonyms, relations.antonyms):
        assert all(word in table[other] for word, others in table.items() for other in others)
    for word, antonyms in relations.antonyms.items():
        assert not relations.synonyms.get(word, set()) & antonyms


@settings(max_examples=60)
@given(rows=ROWS)
def test_a_stated_pair_is_kept_unless_it_is_also_a_stated_antonym(rows: list[Row]) -> None:
    """Compare with the slow way: sets of stated pairs, in which the antonym wins."""
    merged = merged_of(rows)
    relations = relations_of(merged.table)
    stated = {
        (frozenset((word, other)), is_antonym)
        for _, word, is_antonym, other, _, _ in rows
        if word != other
    }
    for pair, is_antonym in stated:
        word, other = sorted(pair)
        table = relations.antonyms if is_antonym else relations.synonyms
        wins = is_antonym or (pair, True) not in stated
        assert (other in table.get(word, set())) == wins
    conflicts = {pair for pair, is_antonym in stated if is_antonym and (pair, False) in stated}
    assert merged.num_conflicts >= len(conflicts)


@settings(max_examples=60)
@given(rows=ROWS)
def test_a_row_names_its_sources(rows: list[Row]) -> None:
    for row in merged_of(rows).table.to_pylist():
        names = {
            name
            for _, word, _, other, _, name in rows
            if {word, other} == {row["word"], row["other"]}
        }
        listed = row["source"].split("+")
        assert listed == sorted(set(listed))
        assert {name for name in listed if "~" not in name} <= names


def test_negation_flips_polarity_and_two_cancel() -> None:
    rows: list[Row] = [
        ("en", "unhappy", False, "sad", "a", "one"),
        ("en", "unhappy", False, "unlit", "a", "one"),
        ("en", "happy", False, "glad", "a", "one"),
        ("en", "lit", False, "bright", "a", "two"),
        ("en", "unhappy", True, "happy", "a", "two"),
    ]
    merged = merged_of(rows)
    relations = relations_of(merged.table)
    assert merged.negations == {"unhappy": "happy", "unlit": "lit"}
    assert relations.antonyms["happy"] == {"unhappy", "sad", "unlit"}
    # unhappy and unlit are synonyms and both negated, so their bases are synonyms, too
    assert relations.synonyms["happy"] == {"glad", "lit"}
    source = {(row["word"], row["other"]): row["source"] for row in merged.table.to_pylist()}
    assert source["happy", "sad"] == "one~negation"
    french: list[Row] = [("fr", *row[1:]) for row in rows]
    assert merged_of(french).negations == {}


def test_a_stated_pair_wins_over_one_that_an_affix_implies() -> None:
    rows: list[Row] = [
        ("en", "unlit", False, "dark", "a", "one"),
        ("en", "lit", False, "dark", "a", "two"),
    ]
    merged = merged_of(rows)
    assert relations_of(merged.table).synonyms["lit"] == {"dark"}
    assert merged.num_conflicts == 1


def test_no_lexicon_is_an_empty_table() -> None:
    assert len(read_lexicon(SensesSpec(dictionary="-")).merged.table) == 0

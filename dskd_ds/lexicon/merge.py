"""Merge several sources into one table.

Negations flip polarity, conflicts are resolved, and equal rows become one row that names all its
sources. A pair can be both synonym and antonym, by different meanings or because a source is
wrong. One rule decides: **a stated relation wins over one derived from an affix; between two of
the same rank the antonym wins**, because it is the rarer and more explicit mark. Tokens belong to
no language, so conflicts are resolved across languages. The result does not depend on the order
of sources or rows. The paper's authors replace negated words and keep conflicts (`MergeRules`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from dskd_ds.lexicon.morpholex import Segmented
from dskd_ds.lexicon.negation import base_of, negations
from dskd_ds.lexicon.replace import replace_negated, replaced_bases
from dskd_ds.lexicon.table import (
    ANTONYM,
    COLUMNS,
    DERIVED_SUFFIX,
    SCHEMA,
    SOURCE_SEPARATOR,
    SYNONYM,
    SourceRows,
    distinct,
)
from dskd_ds.spec.senses import SensesSpec

PAIR = ["word", "other"]
ALL_ASCENDING = [(name, "ascending") for name in COLUMNS]


@dataclass
class Relations:
    """Related words of each word, in lower case; the parts of a phrase are joined by a space."""

    synonyms: dict[str, set[str]] = field(default_factory=dict)
    antonyms: dict[str, set[str]] = field(default_factory=dict)

    def add(self, word: str, other: str, is_antonym: bool) -> None:
        """Add a pair in both directions. A pair of a word with itself is ignored."""
        if word == other:
            return
        table = self.antonyms if is_antonym else self.synonyms
        table.setdefault(word, set()).add(other)
        table.setdefault(other, set()).add(word)

    def words(self) -> list[str]:
        """Return every word that has a relation, sorted."""
        found: set[str] = set()
        for table in (self.synonyms, self.antonyms):
            found.update(word for word, others in table.items() if others)
        return sorted(found)


@dataclass(frozen=True)
class Merged:
    """The merged table, and the decisions made while merging."""

    table: pa.Table
    """Sorted; the sources of a row are joined by `+`."""
    negations: dict[str, str]
    """Negated word -> base."""
    num_conflicts: int
    """Number of pairs that were both synonym and antonym; 0 if conflicts are kept."""


@dataclass(frozen=True)
class MergeRules:
    """How sources are merged: the two keys of [senses] with these names."""

    negation: Literal["beside", "replace"] = "beside"
    conflicts: Literal["resolve", "keep"] = "resolve"

    @classmethod
    def of(cls, senses: SensesSpec) -> MergeRules:
        """Return the rules of a spec."""
        return cls(senses.negation, senses.conflicts)


DEFAULT_RULES = MergeRules()


def merge(
    sources: Sequence[SourceRows],
    morpholex: Mapping[str, Segmented],
    rules: MergeRules = DEFAULT_RULES,
) -> Merged:
    """Merge sources into one table.

    morpholex: what MorphoLEX says of each word; empty without it.
    """
    all_rows = pa.concat_tables([SCHEMA.empty_table(), *(source.table() for source in sources)])
    rows = _one_source_per_row(all_rows)
    # Tables that were merged before bring derived rows, too.
    is_derived = pc.ends_with(rows["source"], DERIVED_SUFFIX)
    stated, derived = rows.filter(pc.invert(is_derived)), rows.filter(is_derived)
    num_conflicts = 0
    if rules.conflicts == "resolve":
        # Conflicts of stated pairs are resolved first, so that nothing is derived from a losing
        # pair.
        stated, num_conflicts = resolve_conflicts(stated)
    if rules.negation == "replace":
        bases = replaced_bases(_words_of(_english(rows)), morpholex)
        together = replace_negated(pa.concat_tables([stated, derived]), bases)
    else:
        bases = _bases(stated, _merged_verdicts(sources), morpholex)
        together = pa.concat_tables([stated, derived, _derived(stated, bases)])
    if rules.conflicts == "resolve":
        together, num_derived_conflicts = resolve_conflicts(together)
        num_conflicts += num_derived_conflicts
    return Merged(table=_join_sources(together), negations=bases, num_conflicts=num_conflicts)


def relations_of(table: pa.Table) -> Relations:
    """Return the pairs of a table in both directions."""
    relations = Relations()
    columns = (table[name].to_pylist() for name in ("word", "relation", "other"))
    for word, relation, other in zip(*columns, strict=True):
        relations.add(word, other, is_antonym=relation == ANTONYM)
    return relations


def resolve_conflicts(rows: pa.Table) -> tuple[pa.Table, int]:
    """Drop the losing relation of each pair that has both.

    rows: one source per row. Returns the remaining rows and the number of conflicts.
    """
    ranked = rows.append_column("rank", _ranks(rows))
    pairs = ranked.group_by(PAIR, use_threads=False).aggregate(
        [("rank", "max"), ("relation", "count_distinct")]
    )
    conflicts = pairs.filter(pc.equal(pairs["relation_count_distinct"], 2))
    if not len(conflicts):
        return rows, 0
    winners = conflicts.select([*PAIR, "rank_max"])
    ranked = ranked.join(winners, keys=PAIR, join_type="left outer")
    # The last bit of a rank is the relation; it differs from the winner's in the losing rows.
    differing_bits = pc.bit_wise_xor(ranked["rank"], ranked["rank_max"])
    last_bit_differs = pc.equal(pc.bit_wise_and(differing_bits, pa.scalar(1, pa.int8())), 1)
    loses = pc.fill_null(last_bit_differs, False)  # null: a pair without a conflict
    return ranked.filter(pc.invert(loses)).select(COLUMNS), len(conflicts)


def _ranks(rows: pa.Table) -> pa.ChunkedArray:
    """Return the rank of each row; its last bit is the relation.

    3: stated antonym, 2: stated synonym, 1: derived antonym, 0: derived synonym.
    """
    is_antonym = pc.cast(pc.equal(rows["relation"], ANTONYM), pa.int8())
    is_stated = pc.invert(pc.ends_with(rows["source"], DERIVED_SUFFIX))
    stated_bit = pc.multiply(pc.cast(is_stated, pa.int8()), pa.scalar(2, pa.int8()))
    return pc.add(stated_bit, is_antonym)


def _one_source_per_row(rows: pa.Table) -> pa.Table:
    """Split rows that name several sources (of tables merged before); return distinct rows."""
    sources = pc.split_pattern(rows["source"].combine_chunks(), SOURCE_SEPARATOR)
    repeated = rows.drop_columns("source").take(pc.list_parent_indices(sources))
    return distinct(repeated.append_column("source", pc.list_flatten(sources)))


def _join_sources(rows: pa.Table) -> pa.Table:
    """Join rows that differ only in their source into one row with all sources; sort the result."""
    ordered = distinct(rows).sort_by(ALL_ASCENDING)
    keys = list(COLUMNS[:-1])
    grouped = ordered.group_by(keys, use_threads=False).aggregate([("source", "list")])
    source_lists = pc.cast(grouped["source_list"].combine_chunks(), pa.list_(pa.string()))
    joined = pc.binary_join(source_lists, SOURCE_SEPARATOR)
    return grouped.select(keys).append_column("source", joined).sort_by(ALL_ASCENDING)


def _merged_verdicts(sources: Sequence[SourceRows]) -> dict[str, str | None]:
    """Join the verdicts of all sources; one source that calls a word a negation is enough."""
    merged: dict[str, str | None] = {}
    for source in sources:
        for word, base in source.verdicts.items():
            merged[word] = merged.get(word) or base
    return merged


def _bases(
    stated: pa.Table, verdicts: Mapping[str, str | None], morpholex: Mapping[str, Segmented]
) -> dict[str, str]:
    """Return negated word -> base of the English words in the stated rows."""
    english = _english(stated)
    words = _words_of(english)
    # Only the relations of these words matter, a small part of a large table.
    needed: set[str] = set()
    for word in words:
        base = base_of(word)
        if base is not None and base in words:
            needed |= {word, base}
    relations = relations_of(_rows_with(english, needed))
    return negations(
        synonyms=relations.synonyms,
        antonyms=relations.antonyms,
        words=words,
        verdicts=verdicts,
        morpholex={word: entry.is_negated for word, entry in morpholex.items()},
    )


def _words_of(rows: pa.Table) -> set[str]:
    """Return every word of the rows."""
    return set(rows["word"].unique().to_pylist()) | set(rows["other"].unique().to_pylist())


def _english(rows: pa.Table) -> pa.Table:
    """Return the English rows."""
    return rows.filter(pc.equal(rows["language"], "en"))


def _rows_with(rows: pa.Table, words: set[str]) -> pa.Table:
    """Return the rows whose pair contains one of the words."""
    wanted = pa.array(sorted(words), pa.string())
    return rows.filter(pc.or_(pc.is_in(rows["word"], wanted), pc.is_in(rows["other"], wanted)))


def _derived(stated: pa.Table, bases: Mapping[str, str]) -> pa.Table:
    """Return the rows that follow from negations, for every English pair with a negated word."""
    derived: dict[tuple[str, ...], None] = {}  # an ordered set of rows
    rows = _rows_with(_english(stated), set(bases))
    columns = (rows[name].to_pylist() for name in COLUMNS)
    for language, word, relation, other, pos, source in zip(*columns, strict=True):
        for first, kind, second in _implied_pairs(word, relation, other, bases):
            derived[language, first, kind, second, pos, source + DERIVED_SUFFIX] = None
    derived_columns = [[row[i] for row in derived] for i in range(len(COLUMNS))]
    return pa.table(derived_columns, schema=SCHEMA)


def _implied_pairs(
    word: str, relation: str, other: str, bases: Mapping[str, str]
) -> Iterator[tuple[str, str, str]]:
    """Yield the (word, relation, other) that a pair implies for the bases of negated words.

    Replacing one word by its base flips the relation; replacing both keeps it. A pair of a word
    with its own base implies nothing.
    """
    flipped = SYNONYM if relation == ANTONYM else ANTONYM
    base, other_base = bases.get(word), bases.get(other)
    if base == other or other_base == word:
        return
    implied = [
        (base, flipped, other),
        (word, flipped, other_base),
        (base, relation, other_base),
    ]
    for left, kind, right in implied:
        if left is not None and right is not None and left != right:
            first, second = sorted((left, right))
            yield first, kind, second

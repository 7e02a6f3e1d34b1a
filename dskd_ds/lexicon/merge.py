"""Several sources -> one table: negations flip polarity, conflicts are settled, equal rows become one that names all its sources.

The one rule for a pair that is both synonym and antonym (by different meanings, or because a source is wrong): **what is stated
outranks what follows from an affix; at equal rank the antonym stays**, the rarer and more explicit mark. A token belongs to no language,
so neither does a conflict. The result does not depend on the order of sources or rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from dskd_ds.lexicon.negation import base_of, negations
from dskd_ds.lexicon.table import (
    ANTONYM,
    COLUMNS,
    DERIVED,
    JOIN,
    SCHEMA,
    SYNONYM,
    SourceRows,
    distinct,
)

PAIR = ["word", "other"]


@dataclass
class Relations:
    """Related words of each word, in lower case, words of several parts joined by a space."""

    synonyms: dict[str, set[str]] = field(default_factory=dict)
    antonyms: dict[str, set[str]] = field(default_factory=dict)

    def add(self, word: str, other: str, opposite: bool) -> None:
        """Add a pair in both directions; a word is no relation of itself."""
        if word != other:
            table = self.antonyms if opposite else self.synonyms
            table.setdefault(word, set()).add(other)
            table.setdefault(other, set()).add(word)

    def words(self) -> list[str]:
        """Every word that has a relation, sorted."""
        return sorted(
            {
                word
                for table in (self.synonyms, self.antonyms)
                for word, others in table.items()
                if others
            }
        )


@dataclass(frozen=True)
class Merged:
    """The merged table and what was decided on the way."""

    table: pa.Table
    """Sorted; the sources of a row joined by `+`."""
    negations: dict[str, str]
    """Negated word -> base."""
    num_conflicts: int
    """Pairs that were both synonym and antonym."""


def merge(sources: Sequence[SourceRows], morpholex: Mapping[str, bool]) -> Merged:
    """Merge sources. morpholex: word -> whether an odd number of negating affixes is in it; empty if there is none."""
    rows = _one_source_a_row(
        pa.concat_tables([SCHEMA.empty_table(), *(source.table() for source in sources)])
    )
    is_derived = pc.ends_with(rows["source"], DERIVED)
    stated, num_stated = settle_conflicts(rows.filter(pc.invert(is_derived)))
    bases = _bases(stated, _verdicts(sources), morpholex)
    settled, num_more = settle_conflicts(
        pa.concat_tables([stated, rows.filter(is_derived), _derived(stated, bases)])
    )
    return Merged(_join_sources(settled), bases, num_stated + num_more)


def relations_of(table: pa.Table) -> Relations:
    """A table's pairs, in both directions."""
    relations = Relations()
    for word, relation, other in zip(
        *(table[name].to_pylist() for name in ("word", "relation", "other")), strict=True
    ):
        relations.add(word, other, relation == ANTONYM)
    return relations


def settle_conflicts(rows: pa.Table) -> tuple[pa.Table, int]:
    """Drop the losing relation of each pair that has both. rows: one source each. Returns the rest and the number of conflicts."""
    # The rank of a row: 3 stated antonym, 2 stated synonym, 1 derived antonym, 0 derived synonym. Its last bit is the relation.
    is_antonym = pc.cast(pc.equal(rows["relation"], ANTONYM), pa.int8())
    is_stated = pc.cast(pc.invert(pc.ends_with(rows["source"], DERIVED)), pa.int8())
    ranked = rows.append_column(
        "rank", pc.add(pc.multiply(is_stated, pa.scalar(2, pa.int8())), is_antonym)
    )
    pairs = ranked.group_by(PAIR, use_threads=False).aggregate(
        [("rank", "max"), ("relation", "count_distinct")]
    )
    both = pairs.filter(pc.equal(pairs["relation_count_distinct"], 2))
    if not len(both):
        return rows, 0
    ranked = ranked.join(both.select([*PAIR, "rank_max"]), keys=PAIR, join_type="left outer")
    last_bit_differs = pc.bit_wise_and(
        pc.bit_wise_xor(ranked["rank"], ranked["rank_max"]), pa.scalar(1, pa.int8())
    )
    loses = pc.fill_null(pc.equal(last_bit_differs, 1), False)  # null: a pair without a conflict
    return ranked.filter(pc.invert(loses)).select(COLUMNS), len(both)


def _one_source_a_row(rows: pa.Table) -> pa.Table:
    """Rows of tables that were merged before name several sources; here each gets a row of its own. Equal rows become one."""
    parts = pc.split_pattern(rows["source"].combine_chunks(), JOIN)
    rows = (
        rows.drop_columns("source")
        .take(pc.list_parent_indices(parts))
        .append_column("source", pc.list_flatten(parts))
    )
    return distinct(rows)


def _join_sources(rows: pa.Table) -> pa.Table:
    ordered = distinct(rows).sort_by([(name, "ascending") for name in COLUMNS])
    keys = list(COLUMNS[:-1])
    grouped = ordered.group_by(keys, use_threads=False).aggregate([("source", "list")])
    joined = pc.binary_join(
        pc.cast(grouped["source_list"].combine_chunks(), pa.list_(pa.string())), JOIN
    )
    return (
        grouped.select(keys)
        .append_column("source", joined)
        .sort_by([(name, "ascending") for name in COLUMNS])
    )


def _verdicts(sources: Sequence[SourceRows]) -> dict[str, str | None]:
    """What the glosses say; where sources differ, one that calls a word a negation is believed."""
    merged: dict[str, str | None] = {}
    for source in sources:
        for word, base in source.verdicts.items():
            merged[word] = merged.get(word) or base
    return merged


def _bases(
    stated: pa.Table, verdicts: Mapping[str, str | None], morpholex: Mapping[str, bool]
) -> dict[str, str]:
    english = stated.filter(pc.equal(stated["language"], "en"))
    words = set(english["word"].unique().to_pylist()) | set(english["other"].unique().to_pylist())
    candidates = {word for word in words if base_of(word) in words}
    near = relations_of(
        _rows_with(english, candidates | {base for word in candidates if (base := base_of(word))})
    )
    return negations(near.synonyms, near.antonyms, words, verdicts, morpholex)


def _rows_with(rows: pa.Table, words: set[str]) -> pa.Table:
    wanted = pa.array(sorted(words), pa.string())
    return rows.filter(pc.or_(pc.is_in(rows["word"], wanted), pc.is_in(rows["other"], wanted)))


def _derived(stated: pa.Table, bases: Mapping[str, str]) -> pa.Table:
    """For every English pair with a negated word, the pair that its base has by it; two negations cancel."""
    result: dict[tuple[str, ...], None] = {}
    rows = _rows_with(stated.filter(pc.equal(stated["language"], "en")), set(bases))
    for language, word, relation, other, pos, source in zip(
        *(rows[name].to_pylist() for name in COLUMNS), strict=True
    ):
        flipped = SYNONYM if relation == ANTONYM else ANTONYM
        base, other_base = bases.get(word), bases.get(other)
        if base == other or other_base == word:
            continue  # the word and its own base
        follows = [
            (base, flipped, other),
            (word, flipped, other_base),
            (base, relation, other_base),
        ]
        for first, kind, second in follows:
            if first is not None and second is not None and first != second:
                first, second = sorted((first, second))
                result[language, first, kind, second, pos, source + DERIVED] = None
    return pa.table([[row[i] for row in result] for i in range(len(COLUMNS))], schema=SCHEMA)

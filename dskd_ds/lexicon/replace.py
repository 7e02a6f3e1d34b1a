"""Replaces negated words by their bases in every pair, as the paper's authors do.

A pair has a sign: + for synonyms and - for antonyms. It changes with each word that is replaced:
(unhappy, sad) as synonyms becomes (happy, sad) as antonyms. A pair whose words become the same is
dropped. Only MorphoLEX decides which words are negated (docs/method.md, "Relations").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from dskd_ds.lexicon.morpholex import Segmented
from dskd_ds.lexicon.table import ANTONYM, COLUMNS, DERIVED_SUFFIX, SCHEMA, SYNONYM, distinct


def replaced_bases(words: Iterable[str], morpholex: Mapping[str, Segmented]) -> dict[str, str]:
    """Return negated word -> the base that takes its place.

    words: all English words of the relations. A word is negated if MorphoLEX lists it with an odd
    number of negating affixes and the rest is a word of MorphoLEX or of the relations.
    """
    words = list(words)
    known = {word.lower() for word in words}
    found: dict[str, str] = {}
    for word in words:
        entry = morpholex.get(word.lower())
        if entry is not None and entry.is_negated and _is_word(entry.base, known, morpholex):
            found[word] = entry.base
    return found


def _is_word(base: str, known: set[str], morpholex: Mapping[str, Segmented]) -> bool:
    return base in morpholex or base in known


def replace_negated(rows: pa.Table, bases: Mapping[str, str]) -> pa.Table:
    """Return the rows with every negated English word replaced by its base.

    bases: negated word -> base. The source of a row that changed ends with DERIVED_SUFFIX.
    """
    negated = pa.array(sorted(bases), pa.string())
    has_negated = pc.or_(pc.is_in(rows["word"], negated), pc.is_in(rows["other"], negated))
    is_affected = pc.and_(has_negated, pc.equal(rows["language"], "en"))
    unchanged = rows.filter(pc.invert(is_affected))
    changed: list[tuple[str, ...]] = []
    columns = (rows.filter(is_affected)[name].to_pylist() for name in COLUMNS)
    for language, word, relation, other, pos, source in zip(*columns, strict=True):
        # Each negation that is taken away turns the relation around.
        is_antonym = (relation == ANTONYM) ^ (word in bases) ^ (other in bases)
        first, second = sorted((bases.get(word, word), bases.get(other, other)))
        if first != second:
            kind = ANTONYM if is_antonym else SYNONYM
            name = source.removesuffix(DERIVED_SUFFIX) + DERIVED_SUFFIX
            changed.append((language, first, kind, second, pos, name))
    new_columns = [[row[i] for row in changed] for i in range(len(COLUMNS))]
    return distinct(pa.concat_tables([unchanged, pa.table(new_columns, schema=SCHEMA)]))

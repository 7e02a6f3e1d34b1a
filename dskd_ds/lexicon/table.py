"""The table that every lexicon is read into: one row per pair of words.

A row has the pair, its relation, its part of speech and its source. Both relations are symmetric,
so a pair is stored once, the smaller word first. Words are in lower case and NFC, with single
spaces between their parts, unless [senses] spelling = "as_written". On disk the table is Parquet.
The file's metadata keeps the negations from which rows were derived, so that merging a written
table again gives the same table.
"""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dskd_ds.errors import InputError
from dskd_ds.files.atomic import atomic_file
from dskd_ds.files.output import writing_output
from dskd_ds.lexicon.lines import LineCounts
from dskd_ds.lexicon.negation import base_of

FORMAT = 1
"""Version of the file; another version is refused."""
METADATA_KEY = "dskd_lexicon"
COLUMNS = ("language", "word", "relation", "other", "pos", "source")
SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])
SYNONYM, ANTONYM = "synonym", "antonym"
SOURCE_SEPARATOR = "+"
"""Separates the sources of a merged row."""
DERIVED_SUFFIX = "~negation"
"""Ends the source name of a pair that no source states but that follows from a negating affix."""
MAX_WORD_CHARACTERS = 60
UNUSABLE = re.compile("[\ufffd|:<>{}\\[\\]]|\u00ef\u00bf\u00bd")
"""Matches markup, cross-references (`Thesaurus:happy`) and letters that were decoded wrongly."""
CHUNK_ROWS = 1 << 16
"""Pairs that are held as Python objects before they become a chunk of a table."""
PARTS_OF_SPEECH = {
    "noun": "n",
    "name": "n",
    "nom": "n",
    "verb": "v",
    "verbe": "v",
    "adj": "a",
    "adjectif": "a",
    "adjective": "a",
    "adv": "r",
    "adverbe": "r",
    "adverb": "r",
    "n": "n",
    "v": "v",
    "a": "a",
    "s": "a",
    "r": "r",
}


def stripped_word(word: str) -> str:
    """Return a word as its source writes it, without blanks around it."""
    return word.strip()


def normalize_word(word: str) -> str:
    """Return a word as the table spells it.

    Returns an empty string if it is unusable: without a letter, too long, or with markup.
    """
    text = " ".join(unicodedata.normalize("NFC", word).lower().split())
    has_letter = any(character.isalpha() for character in text)
    is_usable = has_letter and len(text) <= MAX_WORD_CHARACTERS and not UNUSABLE.search(text)
    return text if is_usable else ""


class SourceRows:
    """What a reader finds in one source: pairs, counts of its lines, and verdicts on negations."""

    def __init__(self, name: str, language: str, *, as_written: bool = False) -> None:
        """as_written: keep the spelling and the case of the source, and every word."""
        self.name, self.language = name, language
        self._spell = stripped_word if as_written else normalize_word
        self.line_counts = LineCounts()
        self.verdicts: dict[str, str | None] = {}
        """Word with a negating affix -> the base that it negates; None if the source shows that
        the word is not a negation."""
        self.num_unusable = 0
        """Distinct words that were left out: no letters, markup, or damaged characters."""
        self._normalized: dict[str, str] = {}
        self._chunks: list[pa.Table] = []
        self._pairs: dict[tuple[str, str, str, str], None] = {}

    def add(self, word: str, other: str, is_antonym: bool, pos: str = "") -> None:
        """Add a pair, unless one of the words is unusable or both are the same.

        pos: the part of speech as the source names it; an unknown name counts as none.
        """
        word, other = self._normalize(word), self._normalize(other)
        if not word or not other or word == other:
            return
        first, second = sorted((word, other))
        relation = ANTONYM if is_antonym else SYNONYM
        self._pairs[first, relation, second, PARTS_OF_SPEECH.get(pos.lower(), "")] = None
        if len(self._pairs) >= CHUNK_ROWS:
            self._flush()

    def add_table(self, table: pa.Table) -> None:
        """Add rows that already have the columns of this table; they keep their sources."""
        self._chunks.append(table.select(COLUMNS).cast(SCHEMA))

    def table(self) -> pa.Table:
        """Return all distinct pairs so far. The rows of a single `add_table` are returned as is."""
        self._flush()
        if len(self._chunks) != 1:
            self._chunks = [distinct(pa.concat_tables([SCHEMA.empty_table(), *self._chunks]))]
        return self._chunks[0]

    def _normalize(self, word: str) -> str:
        """Normalize a word. Equal words share one string; each unusable word is counted once."""
        known = self._normalized.get(word)
        if known is None:
            known = self._normalized[word] = self._spell(word)
            self.num_unusable += not known
        return known

    def _flush(self) -> None:
        """Move the collected pairs into a chunk of the table, where they take less memory."""
        if not self._pairs:
            return
        words, relations, others, pos_column = ([pair[i] for pair in self._pairs] for i in range(4))
        languages = [self.language] * len(self._pairs)
        names = [self.name] * len(self._pairs)
        columns = [languages, words, relations, others, pos_column, names]
        self._chunks.append(pa.table(columns, schema=SCHEMA))
        self._pairs.clear()


def distinct(rows: pa.Table) -> pa.Table:
    """Return the distinct rows of a table with these columns."""
    return rows.group_by(list(COLUMNS), use_threads=False).aggregate([]).select(COLUMNS)


def source_name(kind: str, path: str) -> str:
    """Return the name of a source in the table: its kind and its file name."""
    name = f"{kind}:{Path(path).name}"
    return name.replace(SOURCE_SEPARATOR, "-").replace("~", "-")


def write_table(path: Path, table: pa.Table, negations: dict[str, str]) -> None:
    """Write a merged table as Parquet, completely or not at all.

    negations: negated word -> base. Raises InputError if the file cannot be written.
    """
    metadata = json.dumps({"format": FORMAT, "negations": negations}, ensure_ascii=False)
    with writing_output(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as partial:
            pq.write_table(table.replace_schema_metadata({METADATA_KEY: metadata}), partial)


def read_table(path: Path, source: SourceRows) -> None:
    """Add the rows of a file that `write_table` wrote to `source`; its negations are final.

    Raises InputError if the file is something else.
    """
    try:
        table = pq.read_table(path)
        metadata = json.loads((table.schema.metadata or {})[METADATA_KEY.encode()])
        if metadata["format"] != FORMAT:
            raise KeyError(f"format {metadata['format']}, expected {FORMAT}")
        source.add_table(table)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f'[[senses.lexicons]] path = "{path}" is not a table of word relations: {reason}.\n'
            "  write one with: dskd senses lexicon SPEC.toml --output FILE.parquet"
        ) from None
    source.line_counts.num_lines += len(table)
    words = {word for column in ("word", "other") for word in table[column].unique().to_pylist()}
    # A word that was not a negation gets the verdict None, so that it is not judged by the rule
    # for words without a gloss, which its glosses or MorphoLEX had overruled.
    for word in words:
        if base_of(word) in words:
            source.verdicts[word] = metadata["negations"].get(word)

"""The one table that every lexicon becomes: a row is a pair of words, its relation, its part of speech and who says so.

A pair is stored once, the smaller word first, because both relations hold both ways. Words are in lower case and NFC, parts
joined by one space. On disk it is Parquet; its metadata keeps the negations that its derived rows rest on, so that a table that
is merged again gives the same table.
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
from dskd_ds.lexicon.lines import Damage
from dskd_ds.lexicon.negation import base_of

FORMAT = 1
COLUMNS = ("language", "word", "relation", "other", "pos", "source")
SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])
SYNONYM, ANTONYM = "synonym", "antonym"
JOIN = "+"
"""Between the sources of a merged row."""
DERIVED = "~negation"
"""Ends the name of a source whose pair was not stated but follows from a negating affix."""
MAX_WORD_CHARACTERS = 60
UNUSABLE = re.compile("[\ufffd|:<>{}\\[\\]]|\u00ef\u00bf\u00bd")
"""Markup and cross-references (`Thesaurus:happy`), and what remains of a letter that somebody decoded wrongly."""
CHUNK_ROWS = 1 << 16
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


def plain(word: str) -> str:
    """A word as the table spells it, or nothing if it is none: no letter, too long, or with markup in it."""
    text = " ".join(unicodedata.normalize("NFC", word).lower().split())
    usable = (
        0 < len(text) <= MAX_WORD_CHARACTERS
        and any(map(str.isalpha, text))
        and not UNUSABLE.search(text)
    )
    return text if usable else ""


class SourceRows:
    """What one source says, as its reader finds it: pairs, lines that make no sense, and verdicts on negated words."""

    def __init__(self, name: str, language: str) -> None:
        self.name, self.language = name, language
        self.damage = Damage()
        self.verdicts: dict[str, str | None] = {}
        """Word with a negating affix -> the base it negates, or None where the source shows that it is no negation."""
        self.num_unusable = 0
        """Words that were left out: no letters, markup, spoilt characters."""
        self._plain: dict[str, str] = {}
        self._chunks: list[pa.Table] = []
        self._pairs: dict[tuple[str, str, str, str], None] = {}

    def plain(self, word: str) -> str:
        """See `plain`; equal words share one string, and each odd one counts once."""
        known = self._plain.get(word)
        if known is None:
            known = self._plain[word] = plain(word)
            self.num_unusable += not known
        return known

    def add(self, word: str, other: str, opposite: bool, pos: str = "") -> None:
        """Add a pair; a word is no relation of itself. pos: as the source names it; unknown names become nothing."""
        word, other = self.plain(word), self.plain(other)
        if word and other and word != other:
            first, second = (word, other) if word < other else (other, word)
            self._pairs[
                first,
                ANTONYM if opposite else SYNONYM,
                second,
                PARTS_OF_SPEECH.get(pos.lower(), ""),
            ] = None
            if len(self._pairs) >= CHUNK_ROWS:
                self._flush()

    def add_table(self, table: pa.Table) -> None:
        """Rows that are in the table's form already, their sources included."""
        self._chunks.append(table.select(COLUMNS).cast(SCHEMA))

    def table(self) -> pa.Table:
        """All pairs so far, each once (rows that `add_table` brought are as they were)."""
        self._flush()
        if len(self._chunks) != 1:
            self._chunks = [distinct(pa.concat_tables([SCHEMA.empty_table(), *self._chunks]))]
        return self._chunks[0]

    def _flush(self) -> None:
        if not self._pairs:
            return
        words, relations, others, parts = ([pair[i] for pair in self._pairs] for i in range(4))
        number = len(self._pairs)
        self._chunks.append(
            pa.table(
                [[self.language] * number, words, relations, others, parts, [self.name] * number],
                schema=SCHEMA,
            )
        )
        self._pairs.clear()


def distinct(rows: pa.Table) -> pa.Table:
    """The rows of a table of this form, each once."""
    return rows.group_by(list(COLUMNS), use_threads=False).aggregate([]).select(COLUMNS)


def source_name(kind: str, path: str) -> str:
    """How rows call their source: its kind and the name of its file."""
    return f"{kind}:{Path(path).name}".replace(JOIN, "-").replace("~", "-")


def write_table(path: Path, table: pa.Table, negations: dict[str, str]) -> None:
    """Write a merged table as Parquet, whole or not at all. Raises InputError if it cannot be written."""
    facts = {"format": FORMAT, "negations": negations}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        described = table.replace_schema_metadata(
            {"dskd_lexicon": json.dumps(facts, ensure_ascii=False)}
        )
        with atomic_file(path) as partial:
            pq.write_table(described, partial)
    except OSError as error:
        raise InputError(
            f"--output {path}: it cannot be written: {error.strerror or error}.\n"
            "  name a file in a folder of yours."
        ) from None


def read_table(path: Path, source: SourceRows) -> None:
    """A table that `write_table` wrote; its negations are final. Raises InputError if it is another file."""
    try:
        table = pq.read_table(path)
        facts = json.loads((table.schema.metadata or {})[b"dskd_lexicon"])
        if facts["format"] != FORMAT:
            raise KeyError(f"format {facts['format']}, not {FORMAT}")
        source.add_table(table)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f'[senses.lexicons] path = "{path}", but this is no table of word relations: {str(error).splitlines()[0]}.\n'
            "  write one with: dskd senses lexicon SPEC.toml --output FILE.parquet"
        ) from None
    source.damage.num_lines += len(table)
    words = {word for column in ("word", "other") for word in table[column].unique().to_pylist()}
    source.verdicts.update(
        {word: facts["negations"].get(word) for word in words if base_of(word) in words}
    )

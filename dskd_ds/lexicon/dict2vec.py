"""Dict2Vec's pair lists: two words a line, separated by blanks (Tissier et al., EMNLP 2017).

In a **strong** pair each word is in the other's definition; such words mean nearly the same, so they count as synonyms (as in the
paper). In a **weak** pair only one defines the other (`car`, `road`): that says little about meaning, so weak pairs are not read.
Neither kind knows antonyms, and opposites do define each other: merge with a source that marks them, and the mark wins.
"""

from __future__ import annotations

from pathlib import Path

from dskd_ds.errors import InputError
from dskd_ds.lexicon.lines import read_lines
from dskd_ds.lexicon.table import SourceRows

STRONG_FILE = "strong-pairs.txt"


def read_dict2vec(path: Path, source: SourceRows) -> None:
    """A file of strong pairs, or a folder with `strong-pairs.txt`. Raises InputError for a file of weak pairs."""
    if "weak" in path.name.lower():
        raise InputError(
            f'[senses.lexicons] path = "{path}", but weak pairs of Dict2Vec are no synonyms.\n'
            f'  name {STRONG_FILE}; to use them nevertheless, turn them into a file of kind "tsv".'
        )
    path = path / STRONG_FILE if path.is_dir() else path
    for number, line in read_lines(path, source.damage):
        words = line.split()
        if len(words) == 2:
            source.add(words[0], words[1], False)
        elif words:
            source.damage.malformed(path, number, f"{len(words)} words, not two: {line[:60]!r}")

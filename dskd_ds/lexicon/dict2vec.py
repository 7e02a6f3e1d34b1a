"""Reader for Dict2Vec's pair lists (Tissier et al., EMNLP 2017): two words per line.

In a **strong** pair each word occurs in the definition of the other. Such words mean nearly the
same, so they count as synonyms. In a **weak** pair only one word defines the other (`car`,
`road`); that says little about meaning, so weak pairs are rejected. Files of antonym pairs in the
same format, which others have added, are rejected too: kind = "pairs" reads them.

Dict2Vec marks no antonyms, and two antonyms can occur in each other's definitions. Merge it with
a source that marks antonyms: the merge keeps the antonym.
"""

from __future__ import annotations

from pathlib import Path

from dskd_ds.errors import InputError
from dskd_ds.lexicon.pairs import read_pairs
from dskd_ds.lexicon.table import SourceRows

STRONG_FILE = "strong-pairs.txt"


def read_dict2vec(path: Path, source: SourceRows) -> None:
    """Add the pairs of a strong-pairs file, or of `strong-pairs.txt` in a folder, to `source`.

    Raises InputError for a file of weak pairs or of antonyms.
    """
    if path.name.lower().startswith("ant"):
        raise InputError(
            f'[[senses.lexicons]] path = "{path}" is invalid: kind = "dict2vec" would read its'
            " antonyms as synonyms.\n"
            '  use kind = "pairs" and name the file in antonyms.'
        )
    if "weak" in path.name.lower():
        raise InputError(
            f'[[senses.lexicons]] path = "{path}" is invalid: Dict2Vec\'s weak pairs are not'
            " synonyms.\n"
            f"  use {STRONG_FILE}; to use weak pairs nevertheless, convert them to a file of"
            ' kind "tsv".'
        )
    file = path / STRONG_FILE if path.is_dir() else path
    read_pairs(file, source, is_antonym=False)

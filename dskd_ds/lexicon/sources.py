"""Read the lexicons that a spec names into one merged table, and hash what it depends on."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dskd_ds.errors import InputError
from dskd_ds.files.hashes import file_sha256
from dskd_ds.lexicon.dict2vec import read_dict2vec
from dskd_ds.lexicon.lines import LineCounts
from dskd_ds.lexicon.merge import Merged, merge
from dskd_ds.lexicon.moby import read_moby
from dskd_ds.lexicon.morpholex import read_morpholex
from dskd_ds.lexicon.mythes import read_mythes
from dskd_ds.lexicon.table import SourceRows, read_table, source_name
from dskd_ds.lexicon.tsv import read_tsv
from dskd_ds.lexicon.wiktextract import read_wiktextract
from dskd_ds.lexicon.wordnet import FILES, read_wordnet
from dskd_ds.spec.senses import LexiconSpec, SensesSpec

RULES_VERSION = 2
"""Increase this when a change to reading or merging changes the result: dictionaries that were
built before are then rebuilt."""

READERS: dict[str, Callable[[Path, SourceRows], None]] = {
    "wordnet": read_wordnet,
    "wiktextract": read_wiktextract,
    "dict2vec": read_dict2vec,
    "mythes": read_mythes,
    "moby": read_moby,
    "tsv": read_tsv,
    "table": read_table,
}
"""Reader of each `kind` of lexicon."""


@dataclass(frozen=True)
class Lexicon:
    """The sources that were read, and their merged table."""

    sources: list[SourceRows]
    merged: Merged
    morpholex: dict[str, bool]
    """Word -> whether it has an odd number of negating affixes; empty without MorphoLEX."""
    morpholex_counts: LineCounts | None
    """None without MorphoLEX."""


def read_source(spec: LexiconSpec) -> SourceRows:
    """Read one source. Raises InputError if it cannot be read or contains nothing usable."""
    source = SourceRows(source_name(spec.kind, spec.path), spec.language)
    READERS[spec.kind](Path(spec.path), source)
    if not len(source.table()):
        counts = source.line_counts
        example = f" The first malformed line: {counts.examples[0]}." if counts.examples else ""
        raise InputError(
            f'[[senses.lexicons]] path = "{spec.path}": none of its {counts.num_lines:,} lines'
            f' contains a pair of words of language "{spec.language}".{example}\n'
            f'  check kind = "{spec.kind}" and the language, or install the file again.'
        )
    return source


def read_lexicon(senses: SensesSpec) -> Lexicon:
    """Read and merge all lexicons of [senses]. Raises InputError.

    The number of malformed lines and the first of them are printed to stderr.
    """
    sources = [read_source(spec) for spec in senses.lexicons]
    for source in sources:
        _warn_of_malformed_lines(source.line_counts)
    morpholex: dict[str, bool] = {}
    morpholex_counts: LineCounts | None = None
    if senses.morpholex:
        morpholex, morpholex_counts = read_morpholex(Path(senses.morpholex))
        _warn_of_malformed_lines(morpholex_counts)
    return Lexicon(sources, merge(sources, morpholex), morpholex, morpholex_counts)


def _warn_of_malformed_lines(counts: LineCounts) -> None:
    """Print the number of malformed lines of a source and the first of them to stderr."""
    if counts.num_malformed:
        print(
            f"{counts.num_malformed:,} of {counts.num_lines:,} lines are malformed and were"
            f" skipped, for example {'; '.join(counts.examples)}",
            file=sys.stderr,
        )


def lexicon_digest(senses: SensesSpec) -> str:
    """Return 16 hex digits that change whenever the merged table could change.

    They depend on the content of every lexicon file, the kinds and languages, and RULES_VERSION.
    """
    facts = []
    for spec in senses.lexicons:
        files = [(path.name, file_sha256(path)) for path in _files(spec)]
        facts.append((spec.kind, spec.language, files))
    morpholex = None
    if senses.morpholex and Path(senses.morpholex).is_file():
        morpholex = file_sha256(Path(senses.morpholex))
    content = json.dumps([RULES_VERSION, facts, morpholex])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _files(spec: LexiconSpec) -> list[Path]:
    """Return the existing files of a source. Missing files are reported when they are read."""
    path = Path(spec.path)
    if not path.is_dir():
        wanted = [path]
    elif spec.kind == "wordnet":
        wanted = [path / name for name in FILES]
    else:
        wanted = sorted(path.iterdir())
    return [file for file in wanted if file.is_file()]

"""The lexicons a spec names -> one merged table; and a digest of all that it depends on."""

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
from dskd_ds.lexicon.lines import Damage
from dskd_ds.lexicon.merge import Merged, merge
from dskd_ds.lexicon.moby import read_moby
from dskd_ds.lexicon.morpholex import read_morpholex
from dskd_ds.lexicon.mythes import read_mythes
from dskd_ds.lexicon.table import SourceRows, read_table, source_name
from dskd_ds.lexicon.tsv import read_tsv
from dskd_ds.lexicon.wiktextract import read_wiktextract
from dskd_ds.lexicon.wordnet import FILES, read_wordnet
from dskd_ds.spec.senses import LexiconSpec, SensesSpec

RULES = 2
"""Raise when reading or merging changes what comes out: dictionaries built before are then built anew."""

READERS: dict[str, Callable[[Path, SourceRows], None]] = {
    "wordnet": read_wordnet,
    "wiktextract": read_wiktextract,
    "dict2vec": read_dict2vec,
    "mythes": read_mythes,
    "moby": read_moby,
    "tsv": read_tsv,
    "table": read_table,
}


@dataclass(frozen=True)
class Lexicon:
    """All that was read, and what became of it."""

    sources: list[SourceRows]
    merged: Merged
    morpholex: dict[str, bool]
    """Word -> whether its negating affixes are odd in number; empty without MorphoLEX."""
    morpholex_damage: Damage | None


def read_source(spec: LexiconSpec) -> SourceRows:
    """One source. Raises InputError if it cannot be read, or if nothing usable is in it."""
    source = SourceRows(source_name(spec.kind, spec.path), spec.language)
    READERS[spec.kind](Path(spec.path), source)
    if not len(source.table()):
        first = (
            f" The first malformed one: {source.damage.examples[0]}."
            if source.damage.examples
            else ""
        )
        raise InputError(
            f'[senses.lexicons] path = "{spec.path}", but none of its {source.damage.num_lines:,} lines gives a pair of words'
            f' of language "{spec.language}".{first}\n'
            f'  check that kind = "{spec.kind}" and the language are right, or install the file again.'
        )
    return source


def read_lexicon(senses: SensesSpec) -> Lexicon:
    """Read and merge all lexicons of [senses]. Malformed lines are told on stderr. Raises InputError."""
    sources = [read_source(spec) for spec in senses.lexicons]
    morpholex, damage = read_morpholex(Path(senses.morpholex)) if senses.morpholex else ({}, None)
    for read in (*(source.damage for source in sources), *([damage] if damage else [])):
        if read.num_malformed:
            print(
                f"{read.num_malformed:,} of {read.num_lines:,} lines are malformed and were left out, such as "
                + "; ".join(read.examples),
                file=sys.stderr,
            )
    return Lexicon(sources, merge(sources, morpholex), morpholex, damage)


def lexicon_digest(senses: SensesSpec) -> str:
    """16 hex digits: of the content of every lexicon file, of the kinds and languages, and of the version of the rules."""
    facts = [
        (spec.kind, spec.language, [(path.name, file_sha256(path)) for path in _files(spec)])
        for spec in senses.lexicons
    ]
    morpholex = (
        file_sha256(Path(senses.morpholex))
        if senses.morpholex and Path(senses.morpholex).is_file()
        else None
    )
    return hashlib.sha256(json.dumps([RULES, facts, morpholex]).encode()).hexdigest()[:16]


def _files(spec: LexiconSpec) -> list[Path]:
    """What a source is read from; missing files are named when they are read."""
    path = Path(spec.path)
    if path.is_dir():
        wanted = (
            [path / name for name in FILES] if spec.kind == "wordnet" else sorted(path.iterdir())
        )
        return [file for file in wanted if file.is_file()]
    return [path] if path.is_file() else []

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
from dskd_ds.lexicon.merge import DEFAULT_RULES, Merged, MergeRules, merge
from dskd_ds.lexicon.moby import read_moby
from dskd_ds.lexicon.morpholex import Segmented, read_morpholex
from dskd_ds.lexicon.mythes import read_mythes
from dskd_ds.lexicon.pairs import read_pairs
from dskd_ds.lexicon.table import SourceRows, read_table, source_name
from dskd_ds.lexicon.tsv import read_tsv
from dskd_ds.lexicon.wiktextract import read_wiktextract
from dskd_ds.lexicon.wordnet import FILES, read_wordnet
from dskd_ds.spec.lexicons import LexiconSpec
from dskd_ds.spec.senses import SensesSpec

RULES_VERSION = 2
"""Increase this when a change to reading or merging changes the result: dictionaries that were
built before are then rebuilt."""

READERS: dict[str, Callable[[Path, SourceRows], None]] = {
    "wordnet": read_wordnet,
    "dict2vec": read_dict2vec,
    "mythes": read_mythes,
    "moby": read_moby,
    "tsv": read_tsv,
    "table": read_table,
}
"""Reader of each `kind` of lexicon that needs only a path."""


@dataclass(frozen=True)
class Lexicon:
    """The sources that were read, and their merged table."""

    sources: list[SourceRows]
    merged: Merged
    morpholex: dict[str, Segmented]
    """What MorphoLEX says of each word; empty without it."""
    morpholex_counts: LineCounts | None
    """None without MorphoLEX."""
    rules: MergeRules = DEFAULT_RULES
    """How the sources were merged."""


def read_source(spec: LexiconSpec, *, as_written: bool = False) -> SourceRows:
    """Read one source. Raises InputError if it cannot be read or contains nothing usable.

    as_written: keep the spelling and the case of the source.
    """
    source = SourceRows(source_name(spec.kind, spec.files[0]), spec.language, as_written=as_written)
    _read_files(spec, source)
    if not len(source.table()):
        counts = source.line_counts
        example = f" The first malformed line: {counts.examples[0]}." if counts.examples else ""
        key = "synonyms" if spec.kind == "pairs" else "path"
        raise InputError(
            f'[[senses.lexicons]] {key} = "{spec.files[0]}": none of its {counts.num_lines:,} lines'
            f' contains a pair of words of language "{spec.language}".{example}\n'
            f'  check kind = "{spec.kind}" and the language, or install the file again.'
        )
    return source


def _read_files(spec: LexiconSpec, source: SourceRows) -> None:
    """Add everything that a source's files hold to `source`."""
    if spec.kind == "pairs":
        for file, is_antonym in ((spec.synonyms, False), (spec.antonyms, True)):
            if file is not None:
                read_pairs(Path(file), source, is_antonym=is_antonym)
        return
    assert spec.path is not None  # a rule of the spec
    if spec.kind == "wiktextract":
        read_wiktextract(Path(spec.path), source, only_senses=spec.lists == "senses")
    else:
        READERS[spec.kind](Path(spec.path), source)


def read_lexicon(senses: SensesSpec) -> Lexicon:
    """Read and merge all lexicons of [senses]. Raises InputError.

    The number of malformed lines and the first of them are printed to stderr.
    """
    as_written = senses.spelling == "as_written"
    sources = [read_source(spec, as_written=as_written) for spec in senses.lexicons]
    for source in sources:
        _warn_of_malformed_lines(source.line_counts)
    morpholex: dict[str, Segmented] = {}
    morpholex_counts: LineCounts | None = None
    if senses.morpholex:
        morpholex, morpholex_counts = read_morpholex(
            Path(senses.morpholex), senses.negating_affixes
        )
        _warn_of_malformed_lines(morpholex_counts)
    rules = MergeRules.of(senses)
    merged = merge(sources, morpholex, rules)
    return Lexicon(sources, merged, morpholex, morpholex_counts, rules)


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

    They depend on the content of every lexicon file, the kinds and languages, the rules that merge
    them, and RULES_VERSION.
    """
    facts = []
    for spec in senses.lexicons:
        files = [(path.name, file_sha256(path)) for path in _files(spec)]
        facts.append((spec.kind, spec.language, files, *_other_keys(spec)))
    morpholex = None
    if senses.morpholex and Path(senses.morpholex).is_file():
        morpholex = file_sha256(Path(senses.morpholex))
    content = json.dumps([RULES_VERSION, facts, morpholex, *_other_rules(senses)])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


RULE_KEYS = ("spelling", "negation", "negating_affixes", "conflicts", "max_list_length")
"""The fields of [senses] that decide what becomes of the words that were read."""


def _other_rules(senses: SensesSpec) -> list[tuple[str, object]]:
    """Return the rules that differ from the defaults: dictionaries from before have none."""
    defaults = {name: SensesSpec.model_fields[name].default for name in RULE_KEYS}
    found = {name: getattr(senses, name) for name in RULE_KEYS}
    return [(name, found[name]) for name in RULE_KEYS if found[name] != defaults[name]]


def _other_keys(spec: LexiconSpec) -> list[object]:
    """Return what else decides how a source is read, if it is not the default."""
    if spec.kind == "pairs":
        return [spec.synonyms is not None, spec.antonyms is not None]
    return [spec.lists] if spec.lists != "all" else []


def _files(spec: LexiconSpec) -> list[Path]:
    """Return the existing files of a source. Missing files are reported when they are read."""
    wanted: list[Path] = []
    for path in map(Path, spec.files):
        if not path.is_dir():
            wanted.append(path)
        elif spec.kind == "wordnet":
            wanted += [path / name for name in FILES]
        else:
            wanted += sorted(path.iterdir())
    return [file for file in wanted if file.is_file()]

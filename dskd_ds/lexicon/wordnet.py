"""WordNet 3.0 or 3.1 database files (`data.noun`, `data.verb`, `data.adj`, `data.adv`); their format is the manual page wndb(5WN).

Synonyms share a synset; antonyms are joined by a lexical `!` pointer. Its glosses also tell which words are negations:
`invaluable` is not the opposite of `valuable`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from dskd_ds.errors import InputError
from dskd_ds.lexicon.lines import Damage, read_lines
from dskd_ds.lexicon.negation import GlossVerdicts
from dskd_ds.lexicon.table import SourceRows

FILES = ("data.noun", "data.verb", "data.adj", "data.adv")


@dataclass(frozen=True)
class _Synset:
    pos: str
    words: tuple[str, ...]
    pointers: tuple[tuple[str, str, int, int], ...]
    """(target part of speech, target offset, source word, target word) of each antonym pointer; words count from 1."""


def read_wordnet(folder: Path, source: SourceRows) -> None:
    """Read the folder's four files. Raises InputError if one is missing."""
    synsets: dict[tuple[str, str], _Synset] = {}
    verdicts = GlossVerdicts(source.language)
    for name in FILES:
        if not (folder / name).is_file():
            raise InputError(
                f'[senses.lexicons] path = "{folder}", but {name} cannot be read: no such file.\n'
                "  name the folder of WordNet's database files (Debian: wordnet-base, /usr/share/wordnet)."
            )
        _read_file(folder / name, source.damage, synsets, verdicts)
    for synset in synsets.values():
        for i, word in enumerate(synset.words):
            for other in synset.words[i + 1 :]:
                source.add(word, other, False, synset.pos)
        for part, offset, near, far in synset.pointers:
            target = synsets.get((part, offset))
            if target and 0 < near <= len(synset.words) and 0 < far <= len(target.words):
                source.add(synset.words[near - 1], target.words[far - 1], True, synset.pos)
    source.verdicts.update(verdicts.result())


def _read_file(
    path: Path, damage: Damage, synsets: dict[tuple[str, str], _Synset], verdicts: GlossVerdicts
) -> None:
    for number, line in read_lines(path, damage):
        if line.startswith("  ") or not line:
            continue  # the licence at the top
        try:
            facts, _, gloss = line.partition(" | ")
            key, synset = _parse(facts.split())
        except (ValueError, IndexError):
            damage.malformed(path, number, f"this is no WordNet synset: {line[:60]!r}")
            continue
        synsets[key] = synset
        for word in synset.words:
            verdicts.add(word.lower(), gloss)


def _parse(fields: list[str]) -> tuple[tuple[str, str], _Synset]:
    offset, kind, num_words = fields[0], fields[2], int(fields[3], 16)
    start = 4 + 2 * num_words
    words = tuple(_spaced(word) for word in fields[4:start:2])
    pointers = []
    for i in range(int(fields[start])):
        symbol, target, part, ends = fields[start + 1 + 4 * i : start + 5 + 4 * i]
        if symbol == "!":
            pointers.append((part, target, int(ends[:2], 16), int(ends[2:], 16)))
    pos = "a" if kind == "s" else kind
    return (pos, offset), _Synset(pos, words, tuple(pointers))


def _spaced(word: str) -> str:
    """`Hot_Dog(p)` -> `Hot Dog`: no marker of an adjective's position, spaces for underscores."""
    return re.sub(r"\((a|p|ip)\)$", "", word).replace("_", " ")

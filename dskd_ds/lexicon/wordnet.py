"""Reader for WordNet 3.0 and 3.1 database files: `data.noun`, `data.verb`, `data.adj`, `data.adv`.

The format is described in the manual page wndb(5WN). Words of one synset are synonyms; antonyms
are connected by a lexical `!` pointer. The glosses also show which words with a negating affix
are negations: `invaluable` is not the opposite of `valuable`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from dskd_ds.errors import InputError
from dskd_ds.lexicon.lines import LineCounts, read_lines
from dskd_ds.lexicon.negation import GlossVerdicts
from dskd_ds.lexicon.table import SourceRows

FILES = ("data.noun", "data.verb", "data.adj", "data.adv")

SynsetKey = tuple[str, str]
"""(part of speech, offset in the file of that part of speech)."""


@dataclass(frozen=True)
class _AntonymPointer:
    """A pointer from a word of one synset to a word of another. Word numbers start at 1."""

    target: SynsetKey
    source_word: int
    target_word: int


@dataclass(frozen=True)
class _Synset:
    pos: str
    words: tuple[str, ...]
    antonym_pointers: tuple[_AntonymPointer, ...]


def read_wordnet(folder: Path, source: SourceRows) -> None:
    """Add the pairs of the folder's four files to `source`. Raises InputError if one is missing."""
    synsets: dict[SynsetKey, _Synset] = {}
    verdicts = GlossVerdicts(source.language)
    for name in FILES:
        if not (folder / name).is_file():
            raise InputError(
                f'[[senses.lexicons]] path = "{folder}": {name} cannot be read: no such file.\n'
                "  name the folder of WordNet's database files (Debian: wordnet-base,"
                " /usr/share/wordnet)."
            )
        _read_file(folder / name, source.line_counts, synsets, verdicts)
    for synset in synsets.values():
        _add_pairs(synset, synsets, source)
    source.verdicts.update(verdicts.result())


def _add_pairs(synset: _Synset, synsets: dict[SynsetKey, _Synset], source: SourceRows) -> None:
    """Add the synonyms in a synset and the antonyms that it points to."""
    for i, word in enumerate(synset.words):
        for other in synset.words[i + 1 :]:
            source.add(word, other, is_antonym=False, pos=synset.pos)
    for pointer in synset.antonym_pointers:
        target = synsets.get(pointer.target)
        if target is None:
            continue
        # Damaged files may hold word numbers out of range.
        has_source_word = 0 < pointer.source_word <= len(synset.words)
        has_target_word = 0 < pointer.target_word <= len(target.words)
        if has_source_word and has_target_word:
            word = synset.words[pointer.source_word - 1]
            antonym = target.words[pointer.target_word - 1]
            source.add(word, antonym, is_antonym=True, pos=synset.pos)


def _read_file(
    path: Path,
    line_counts: LineCounts,
    synsets: dict[SynsetKey, _Synset],
    verdicts: GlossVerdicts,
) -> None:
    """Add the synsets and the glosses of one file to `synsets` and `verdicts`."""
    for line_number, line in read_lines(path, line_counts):
        if line.startswith("  ") or not line:
            continue  # the licence at the top of the file
        facts, _, gloss = line.partition(" | ")
        try:
            key, synset = _parse(facts.split())
        except (ValueError, IndexError):
            line_counts.add_malformed(path, line_number, f"not a WordNet synset: {line[:60]!r}")
            continue
        synsets[key] = synset
        for word in synset.words:
            verdicts.add(word.lower(), gloss)


def _parse(fields: list[str]) -> tuple[SynsetKey, _Synset]:
    """Parse the fields before the gloss. Raises ValueError or IndexError if they are no synset."""
    offset, kind, num_words = fields[0], fields[2], int(fields[3], 16)
    pointers_start = 4 + 2 * num_words
    words = tuple(_plain_text(word) for word in fields[4:pointers_start:2])
    pointers = []
    for i in range(int(fields[pointers_start])):
        start = pointers_start + 1 + 4 * i
        symbol, target_offset, target_pos, word_numbers = fields[start : start + 4]
        if symbol == "!":
            source_word, target_word = int(word_numbers[:2], 16), int(word_numbers[2:], 16)
            target = (target_pos, target_offset)
            pointers.append(_AntonymPointer(target, source_word, target_word))
    pos = "a" if kind == "s" else kind  # satellite adjectives are stored in data.adj
    return (pos, offset), _Synset(pos, words, tuple(pointers))


def _plain_text(word: str) -> str:
    """Remove the mark of an adjective's position; underscores become spaces.

    `Hot_Dog(p)` -> `Hot Dog`.
    """
    return re.sub(r"\((a|p|ip)\)$", "", word).replace("_", " ")

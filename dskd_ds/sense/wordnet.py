"""WordNet database files (`data.noun`, `data.verb`, `data.adj`, `data.adv`) -> synonym and antonym pairs of words.

Synonyms share a synset; antonyms are joined by a lexical `!` pointer. Format: the manual page wndb(5WN). Negating affixes flip
polarity (METHOD.md, "Relate"): what is a synonym of `unB` is an antonym of `B`. A prefix is believed only where WordNet itself
says that the word is a negation: an antonym pointer to the base, or a gloss that says so (`invaluable` is not the opposite of
`valuable`). Paper: the negated word is replaced by its base; ours adds the pair with the base and keeps the word's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dskd_ds.errors import InputError

PARTS_OF_SPEECH = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
PREFIXES = ("un", "dis", "non", "in", "im", "il", "ir")
NEGATING_GLOSS = re.compile(r"\b(not|no|non|lack|lacking|without|absence|opposite|deprive|remove|reverse|free from)\b")


@dataclass
class Relations:
    """Related words of each word, in lower case, words of several parts joined by a space."""

    synonyms: dict[str, set[str]] = field(default_factory=dict)
    antonyms: dict[str, set[str]] = field(default_factory=dict)

    def add(self, word: str, other: str, opposite: bool) -> None:
        """Add a pair in both directions; a word is no relation of itself."""
        if word != other:
            table = self.antonyms if opposite else self.synonyms
            table.setdefault(word, set()).add(other)
            table.setdefault(other, set()).add(word)

    def settle_conflicts(self) -> int:
        """A pair that is both (by different meanings) stays an antonym, the rarer and more explicit mark. Returns how many."""
        num_conflicts = 0
        for word, opposites in self.antonyms.items():
            both = self.synonyms.get(word, set()) & opposites
            self.synonyms.get(word, set()).difference_update(both)
            num_conflicts += len(both)
        return num_conflicts // 2

    def words(self) -> list[str]:
        """Every word that has a relation, sorted."""
        return sorted({word for table in (self.synonyms, self.antonyms) for word, others in table.items() if others})


@dataclass(frozen=True)
class _Synset:
    words: tuple[str, ...]
    pointers: tuple[tuple[str, str, int, int], ...]
    """(target part of speech, target offset, source word, target word) of each antonym pointer; words count from 1."""
    gloss: str


def read_wordnet(folder: str | Path) -> Relations:
    """Read WordNet 3.0 or 3.1 from its database folder. Raises InputError if files are missing or malformed."""
    synsets = {key: synset for name in PARTS_OF_SPEECH for key, synset in _read_file(Path(folder) / f"data.{name}")}
    relations = Relations()
    for (_, _), synset in synsets.items():
        for i, word in enumerate(synset.words):
            for other in synset.words[i + 1 :]:
                relations.add(word, other, opposite=False)
    for synset in synsets.values():
        for part, offset, source, target in synset.pointers:
            other_synset = synsets.get((part, offset))
            if other_synset and source <= len(synset.words) and target <= len(other_synset.words):
                relations.add(synset.words[source - 1], other_synset.words[target - 1], opposite=True)
    _flip_negations(relations, negations(synsets.values(), relations))
    relations.settle_conflicts()
    return relations


def _read_file(path: Path) -> Iterator[tuple[tuple[str, str], _Synset]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f'[senses.lexicons] path = "{path.parent}", but {path.name} cannot be read: {reason}.\n'
                         "  name the folder of WordNet's database files (Debian: wordnet-base, /usr/share/wordnet).") from None
    for number, line in enumerate(lines, 1):
        if line.startswith("  "):
            continue  # the licence at the top
        try:
            yield _parse(line)
        except (ValueError, IndexError):
            raise InputError(f"{path}, line {number}: this is no WordNet synset: {line[:60]!r}.\n"
                             "  the file is damaged: install it again.") from None


def _parse(line: str) -> tuple[tuple[str, str], _Synset]:
    facts, _, gloss = line.partition(" | ")
    fields = facts.split()
    offset, kind, num_words = fields[0], fields[2], int(fields[3], 16)
    words = tuple(_plain(word) for word in fields[4 : 4 + 2 * num_words : 2])
    pointers = []
    start = 4 + 2 * num_words
    for i in range(int(fields[start])):
        symbol, target, part, ends = fields[start + 1 + 4 * i : start + 5 + 4 * i]
        if symbol == "!":
            pointers.append((part, target, int(ends[:2], 16), int(ends[2:], 16)))
    return ("a" if kind == "s" else kind, offset), _Synset(words, tuple(pointers), gloss)


def _plain(word: str) -> str:
    """`Hot_Dog(p)` -> `hot dog`: no marker of adjective position, spaces for underscores, lower case."""
    return re.sub(r"\((a|p|ip)\)$", "", word).replace("_", " ").lower()


def base_of(word: str) -> str | None:
    """What is left of a word without its negating affix, or None: `unhappy` -> `happy`, `fearless` -> `fear`."""
    if word.endswith("less") and len(word) > 6:
        return word[:-4]
    for prefix in PREFIXES:
        if word.startswith(prefix) and len(word) > len(prefix) + 2:
            return word[len(prefix) :].removeprefix("-")
    return None


def negations(synsets: Iterable[_Synset], relations: Relations) -> dict[str, str]:
    """negated word -> base, for those that WordNet itself tells to be negations."""
    glosses: dict[str, list[str]] = {}
    for synset in synsets:
        for word in synset.words:
            glosses.setdefault(word, []).append(synset.gloss)
    found = {}
    for word, texts in glosses.items():
        base = base_of(word)
        if base in glosses and (base in relations.antonyms.get(word, ()) or all(NEGATING_GLOSS.search(t) for t in texts)):
            found[word] = base
    return found


def _flip_negations(relations: Relations, bases: dict[str, str]) -> None:
    """For every relation of a negated word, add the one its base has by it; two negations cancel."""
    for table, opposite in ((relations.synonyms, False), (relations.antonyms, True)):
        pairs = [(word, other) for word in bases for other in sorted(table.get(word, ()))]
        for word, other in pairs:
            if other == bases[word]:
                continue
            relations.add(bases[word], other, opposite=not opposite)
            if other in bases:
                relations.add(bases[word], bases[other], opposite=opposite)

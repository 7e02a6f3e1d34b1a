"""WordNet's example sentences -> pairs of contexts of one word: is it used in the same meaning in both, or not?

A synset's gloss ends with quoted examples. Where one of them holds a word of the synset, perhaps inflected, that occurrence is
labelled with the synset for free. Two examples of a synset make a pair with the same meaning. WordNet's synsets are finer than
people's meanings, so a pair has different meanings only if its synsets lie in different lexicographer files (noun.object and
noun.possession, say), as Pilehvar and Camacho-Collados (WiC, 2019) have it too. Every word gives as many pairs of the one kind as of
the other, so no word is itself a hint.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dskd_ds.errors import InputError

PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
QUOTED = re.compile(r'"([^"]+)"')
WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
ENDINGS = {
    "noun": (
        ("s", ""),
        ("ses", "s"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ),
    "verb": (
        ("s", ""),
        ("ies", "y"),
        ("es", "e"),
        ("es", ""),
        ("ed", "e"),
        ("ed", ""),
        ("ing", "e"),
        ("ing", ""),
    ),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adv": (),
}
"""Inflected ending -> the base form's, as WordNet's manual lists them (morphy(7WN))."""
TUNE_SHARE = 3
"""One lemma in this many serves for tuning; its pairs are never scored."""


@dataclass(frozen=True)
class Occurrence:
    """A word in an example sentence."""

    lemma: str
    part: str
    synset: str
    """Offset of the synset in the file of its part of speech."""
    field: str
    """Number of the synset's lexicographer file: which field of meaning it is in (lexnames(5WN))."""
    text: str
    start: int
    end: int
    """Characters `start:end` of the text are the word as it is written there."""


@dataclass(frozen=True)
class Pair:
    """Two occurrences of one lemma as one part of speech."""

    left: Occurrence
    right: Occurrence

    @property
    def same(self) -> bool:
        """Whether both are of one synset."""
        return self.left.synset == self.right.synset

    @property
    def lemma(self) -> str:
        """The word."""
        return self.left.lemma

    @property
    def for_tuning(self) -> bool:
        """Whether its lemma is one of those that serve for tuning."""
        return _digest(self.lemma) % TUNE_SHARE == 0


def read_occurrences(folder: str | Path) -> list[Occurrence]:
    """Every occurrence of a synset's one-word lemmas in its own examples that has words before it. Raises InputError.

    A decoder's state sees only what came before, so a word that begins its sentence has no context.
    """
    return [
        o
        for part in PARTS_OF_SPEECH
        for o in _read_part(Path(folder), part)
        if o.text[: o.start].strip()
    ]


def _read_part(folder: Path, part: str) -> Iterator[Occurrence]:
    exceptions = _exceptions(folder / f"{part}.exc")
    for line in _lines(folder / f"data.{part}"):
        facts, _, gloss = line.partition(" | ")
        fields = facts.split()
        if line.startswith("  ") or len(fields) < 6:
            continue  # the licence at the top
        words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
        lemmas = {re.sub(r"\((a|p|ip)\)$", "", word).lower() for word in words if "_" not in word}
        for text in QUOTED.findall(gloss):
            yield from _find(lemmas, (part, fields[0], fields[1]), text, exceptions)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: it cannot be read: {error}.\n  [[senses.lexicons]] of kind wordnet must name WordNet's database"
            " folder (Debian: wordnet-base, /usr/share/wordnet)."
        ) from None


def _exceptions(path: Path) -> dict[str, set[str]]:
    """Irregular form -> base forms; empty where WordNet came without the file."""
    table: dict[str, set[str]] = {}
    for line in _lines(path) if path.is_file() else []:
        form, *bases = line.split()
        table.setdefault(form, set()).update(bases)
    return table


def base_forms(word: str, part: str, exceptions: dict[str, set[str]]) -> set[str]:
    """What a written word may be a form of: `banks` -> {banks, bank}. Some are no words; the synset decides."""
    detached = {word.removesuffix(old) + new for old, new in ENDINGS[part] if word.endswith(old)}
    return {word} | exceptions.get(word, set()) | detached


def _find(
    lemmas: set[str], place: tuple[str, str, str], text: str, exceptions: dict[str, set[str]]
) -> Iterator[Occurrence]:
    """The first occurrence of each lemma in a text. place: part of speech, synset, field."""
    found: set[str] = set()
    initials = {lemma[0] for lemma in lemmas}
    for match in WORD.finditer(text):
        word = match.group().lower()
        if word[0] not in initials and word not in exceptions:
            continue
        for lemma in sorted(lemmas & base_forms(word, place[0], exceptions) - found):
            found.add(lemma)
            yield Occurrence(lemma, *place, text, match.start(), match.end())


def build_pairs(occurrences: Iterable[Occurrence], max_pairs: int) -> list[Pair]:
    """At most max_pairs balanced pairs, the same for the same occurrences in any order.

    Each lemma and part of speech that can gives a pair of one synset and a pair of two fields. Where those are too many, the lemmas
    with the smallest digests stay: an even sample, and a larger one holds it.
    """
    words: dict[tuple[str, str], dict[str, list[Occurrence]]] = {}
    for item in sorted(set(occurrences), key=lambda o: (_digest(o.text), o.synset, o.start)):
        words.setdefault((item.lemma, item.part), {}).setdefault(item.synset, []).append(item)
    pairs: list[Pair] = []
    for _, synsets in sorted(words.items(), key=lambda entry: (_digest(entry[0][0]), entry[0])):
        same = [
            Pair(items[0], other)
            for items in synsets.values()
            for other in items[1:]
            if other.text != items[0].text
        ]
        different = _across(list(synsets.values()))
        if same and different and len(pairs) + 2 <= max_pairs:
            pairs += [min(same, key=_pair_digest), min(different, key=_pair_digest)]
    return pairs


def _across(synsets: list[list[Occurrence]]) -> list[Pair]:
    """Pairs of synsets in different fields, with different texts: of each synset its first occurrence."""
    firsts = [items[0] for items in synsets]
    return [
        Pair(left, right)
        for left, right in itertools.combinations(firsts, 2)
        if left.field != right.field and left.text != right.text
    ]


def _pair_digest(pair: Pair) -> int:
    return _digest(f"{pair.left.text}|{pair.right.text}")


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")

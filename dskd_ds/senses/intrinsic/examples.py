"""Build word-in-context pairs from WordNet's example sentences.

A synset's gloss ends with quoted examples. If an example contains a word of the synset, perhaps
inflected, the occurrence can be labelled with the synset. Two examples of one synset make a pair
with the same meaning. WordNet's synsets are finer than the meanings that people distinguish, so a
pair has different meanings only if its synsets lie in different lexicographer files (noun.object
and noun.possession, for example), as in WiC (Pilehvar and Camacho-Collados, 2019). Every word
gives as many pairs of one kind as of the other, so the word itself reveals nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
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
"""(ending of an inflected form, ending of its base form), by part of speech, as WordNet's manual
page morphy(7WN) lists them."""
TUNING_MODULUS = 3
"""One lemma in this many is used for tuning; its pairs are never scored."""

Exceptions = dict[str, set[str]]
"""Irregular form -> its base forms."""


@dataclass(frozen=True)
class Occurrence:
    """A word in an example sentence."""

    lemma: str
    pos: str
    synset: str
    """Offset of the synset in the file of its part of speech."""
    meaning_field: str
    """Number of the synset's lexicographer file, which is a field of meaning (lexnames(5WN))."""
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
    def same_synset(self) -> bool:
        """Whether both occurrences belong to one synset, so that their meaning is the same."""
        return self.left.synset == self.right.synset

    @property
    def lemma(self) -> str:
        """The word."""
        return self.left.lemma

    @property
    def for_tuning(self) -> bool:
        """Whether the lemma is one of those that are used for tuning."""
        return _digest(self.lemma) % TUNING_MODULUS == 0


def read_occurrences(folder: str | Path) -> list[Occurrence]:
    """Return every occurrence of a synset's one-word lemmas in the synset's own examples.

    Occurrences at the start of a text are left out: a decoder's state sees only what came before,
    so these have no context. Raises InputError if a file cannot be read.
    """
    occurrences = [item for pos in PARTS_OF_SPEECH for item in _read_file(Path(folder), pos)]
    return [item for item in occurrences if item.text[: item.start].strip()]


@dataclass(frozen=True)
class Synset:
    """A synset's one-word lemmas, and what its occurrences are labelled with."""

    lemmas: set[str]
    pos: str
    offset: str
    meaning_field: str


def _read_file(folder: Path, pos: str) -> Iterator[Occurrence]:
    """Yield the occurrences in the file of one part of speech."""
    exceptions = _read_exceptions(folder / f"{pos}.exc")
    for synset, gloss in read_synsets(folder, pos):
        for text in QUOTED.findall(gloss):
            yield from _find(synset, text, exceptions)


def read_synsets(folder: Path, pos: str) -> Iterator[tuple[Synset, str]]:
    """Yield the synsets in the file of one part of speech, each with its gloss.

    Raises InputError if the file cannot be read.
    """
    for line in _lines(folder / f"data.{pos}"):
        facts, _, gloss = line.partition(" | ")
        fields = facts.split()
        if line.startswith("  ") or len(fields) < 6:
            continue  # the licence at the top of the file
        words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
        # An adjective may end with a mark of its position, such as (a).
        lemmas = {re.sub(r"\((a|p|ip)\)$", "", word).lower() for word in words if "_" not in word}
        yield Synset(lemmas, pos, offset=fields[0], meaning_field=fields[1]), gloss


def _lines(path: Path) -> list[str]:
    """Return the lines of a file. Raises InputError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: the file cannot be read: {error}.\n"
            "  [[senses.lexicons]] of kind wordnet must name WordNet's database folder"
            " (Debian: wordnet-base, /usr/share/wordnet)."
        ) from None


def _read_exceptions(path: Path) -> Exceptions:
    """Read a file of irregular forms. Returns none if this WordNet has no such file."""
    exceptions: Exceptions = {}
    if not path.is_file():
        return exceptions
    for line in _lines(path):
        form, *bases = line.split()
        exceptions.setdefault(form, set()).update(bases)
    return exceptions


def base_forms(word: str, pos: str, exceptions: Exceptions) -> set[str]:
    """Return what a written word may be a form of: `banks` -> {banks, bank}.

    Some of the results are not words; only those that are lemmas of a synset are used.
    """
    regular = {word.removesuffix(old) + new for old, new in ENDINGS[pos] if word.endswith(old)}
    return {word} | exceptions.get(word, set()) | regular


def _find(synset: Synset, text: str, exceptions: Exceptions) -> Iterator[Occurrence]:
    """Yield the first occurrence of each lemma of a synset in a text."""
    found: set[str] = set()
    initials = {lemma[0] for lemma in synset.lemmas}
    for match in WORD.finditer(text):
        word = match.group().lower()
        if word[0] not in initials and word not in exceptions:
            continue  # a regular form begins with the same letter as its lemma
        new_lemmas = synset.lemmas & base_forms(word, synset.pos, exceptions) - found
        for lemma in sorted(new_lemmas):
            found.add(lemma)
            yield Occurrence(
                lemma=lemma,
                pos=synset.pos,
                synset=synset.offset,
                meaning_field=synset.meaning_field,
                text=text,
                start=match.start(),
                end=match.end(),
            )


def build_pairs(occurrences: Iterable[Occurrence], max_pairs: int) -> list[Pair]:
    """Return at most max_pairs balanced pairs; the order of the occurrences does not matter.

    Each lemma and part of speech with pairs of both kinds gives a pair of one synset and a pair of
    two fields of meaning. If these are too many, the lemmas with the smallest digests are kept:
    an even sample, which is contained in the samples for any larger max_pairs.
    """
    pairs: list[Pair] = []
    for synsets in _by_lemma(occurrences):
        same = _within_synsets(synsets)
        different = _across_synsets(synsets)
        if same and different and len(pairs) + 2 <= max_pairs:
            pairs += [min(same, key=_pair_digest), min(different, key=_pair_digest)]
    return pairs


def _by_lemma(occurrences: Iterable[Occurrence]) -> list[list[list[Occurrence]]]:
    """Return for each lemma and part of speech the occurrences of each of its synsets.

    Lemmas are ordered by their digests, and so are the texts within a synset.
    """
    lemmas: dict[tuple[str, str], dict[str, list[Occurrence]]] = {}
    ordered = sorted(
        set(occurrences), key=lambda item: (_digest(item.text), item.synset, item.start)
    )
    for item in ordered:
        synsets = lemmas.setdefault((item.lemma, item.pos), {})
        synsets.setdefault(item.synset, []).append(item)
    ordered_keys = sorted(lemmas, key=lambda key: (_digest(key[0]), key))
    return [list(lemmas[key].values()) for key in ordered_keys]


def _within_synsets(synsets: Sequence[Sequence[Occurrence]]) -> list[Pair]:
    """Return pairs of one synset with different texts: its first occurrence with each other one."""
    return [
        Pair(occurrences[0], other)
        for occurrences in synsets
        for other in occurrences[1:]
        if other.text != occurrences[0].text
    ]


def _across_synsets(synsets: Sequence[Sequence[Occurrence]]) -> list[Pair]:
    """Return pairs of synsets in different fields with different texts, by first occurrences."""
    first_occurrences = [occurrences[0] for occurrences in synsets]
    return [
        Pair(left, right)
        for left, right in itertools.combinations(first_occurrences, 2)
        if left.meaning_field != right.meaning_field and left.text != right.text
    ]


def _pair_digest(pair: Pair) -> int:
    """Return a number that orders pairs as if at random, but the same in every run."""
    return _digest(f"{pair.left.text}|{pair.right.text}")


def _digest(text: str) -> int:
    """Return a 64-bit hash that is the same in every run."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")

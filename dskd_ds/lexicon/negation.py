"""Which words are negations of which, and what follows: a synonym of `unB` is an antonym of `B` (docs/method.md, "Relations").

An affix is not believed by itself: `invaluable` is not the opposite of `valuable`, `inform` not of `form`. In this order decides
1. a stated antonym: the sources say that word and base are opposites;
2. MorphoLEX, where it is given and knows the word: an odd number of negating affixes, and the base is no stated synonym;
3. the glosses, where a source has some (WordNet, Wiktextract): every one of them denies something;
4. otherwise the rule of `looks_negated`, checked against WordNet (`python -m dskd_ds.bench.lexicon`).
Affixes are English; words of other languages are negations only where stated. Paper: the negated word is replaced by its base;
ours adds the pair with the base and keeps the word's own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

PREFIXES = ("un", "dis", "non", "in", "im", "il", "ir")
SUFFIX = "less"
NEGATING_GLOSS = re.compile(
    r"\b(not|no|non|lack|lacking|without|absence|opposite|deprive|remove|reverse|free from)\b",
    re.IGNORECASE,
)

ABSTRACT_ENDING = re.compile(
    r"(abl[ey]|ibl[ey]|bility|al|ally|ality|ent|ently|[ae]nc[ey]|ity|ness|ous|ously|ic|ically|ive|ively|ile)$"
)


def base_of(word: str) -> str | None:
    """What is left of a word without its negating affix, or None: `unhappy` -> `happy`, `fearless` -> `fear`."""
    if word.endswith(SUFFIX) and len(word) > len(SUFFIX) + 2:
        return word[: -len(SUFFIX)]
    for prefix in PREFIXES:
        if word.startswith(prefix) and len(word) > len(prefix) + 2:
            return word[len(prefix) :].removeprefix("-")
    return None


class GlossVerdicts:
    """Collects the glosses of words with a negating affix: a negation is denied by every gloss of its word."""

    def __init__(self, language: str) -> None:
        self._language = language
        self._denies: dict[str, bool] = {}

    def add(self, word: str, gloss: str) -> None:
        """word: in lower case."""
        if self._language == "en" and base_of(word):
            self._denies[word] = self._denies.get(word, True) and bool(NEGATING_GLOSS.search(gloss))

    def result(self) -> dict[str, str | None]:
        """Word -> the base that it negates, or None if it is no negation."""
        return {word: base_of(word) if denies else None for word, denies in self._denies.items()}


Pairs = Mapping[str, Collection[str]]


def negations(
    synonyms: Pairs,
    antonyms: Pairs,
    words: Collection[str],
    verdicts: Mapping[str, str | None],
    morpholex: Mapping[str, bool],
) -> dict[str, str]:
    """Negated word -> base, by the order at the top of this module.

    synonyms, antonyms: stated relations of at least every English word that has a negating affix. words: all English words.
    morpholex: word -> whether its negating affixes are odd in number.
    """
    found = {}
    for word in sorted(words):
        base = base_of(word)
        if base is None or base not in words:
            continue
        if base in antonyms.get(word, ()):
            negated = True
        elif word in morpholex:
            negated = morpholex[word] and base not in synonyms.get(word, ())
        elif word in verdicts:
            negated = verdicts[word] == base
        else:
            negated = looks_negated(word, base, synonyms)
        if negated:
            found[word] = base
    return found


def looks_negated(word: str, base: str, synonyms: Pairs) -> bool:
    """Whether a word without any gloss passes for a negation of its base; both are words, and no stated synonyms.

    `un-`, `non-` and `-less` are believed (`unlit`). `dis-` and `in- im- il- ir-` are more often something else (`discover`, `income`,
    `impact`): they need a synonym that negates the base or a synonym of it (`dishonour` and `dishonor`), or, for the four, an ending of
    adjectives or abstract nouns (`insalubrious`).
    """
    if base in synonyms.get(word, ()):
        return False
    if word.endswith(SUFFIX) or word.startswith(("un", "non")):
        return True
    near_base = {base, *synonyms.get(base, ())}
    if any(base_of(other) in near_base for other in synonyms.get(word, ())):
        return True
    return not word.startswith("dis") and bool(ABSTRACT_ENDING.search(word))

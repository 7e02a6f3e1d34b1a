"""Which words are negations of which: a synonym of `unB` is an antonym of `B`.

An affix alone proves nothing: `invaluable` is not the opposite of `valuable`, nor `inform` of
`form`. The first of these that applies decides (docs/method.md, "Relations"):

1. a stated antonym: the sources say that word and base are opposites;
2. MorphoLEX, if it is given and lists the word: the word has an odd number of negating affixes,
   and the base is not a stated synonym;
3. the glosses, if a source has some (WordNet, Wiktextract): every one of them denies something;
4. the rule of `looks_negated`, checked against WordNet (`python -m dskd_ds.bench.lexicon`).

The affixes are English; words of other languages are negations only if a source says so. Here the
pair with the base is added and the word keeps its own pairs; lexicon/replace.py has the paper's
way.
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
    r"(abl[ey]|ibl[ey]|bility|al|ally|ality|ent|ently|[ae]nc[ey]|ity|ness"
    r"|ous|ously|ic|ically|ive|ively|ile)$"
)
"""Endings of adjectives, adverbs and abstract nouns."""


def base_of(word: str) -> str | None:
    """Return a word without its negating affix, or None if it has no such affix.

    `unhappy` -> `happy`, `fearless` -> `fear`.
    """
    if word.endswith(SUFFIX) and len(word) > len(SUFFIX) + 2:
        return word[: -len(SUFFIX)]
    for prefix in PREFIXES:
        if word.startswith(prefix) and len(word) > len(prefix) + 2:
            return word[len(prefix) :].removeprefix("-")
    return None


class GlossVerdicts:
    """Decides by glosses: a word is a negation if every one of its glosses denies something.

    Only English words with a negating affix are judged.
    """

    def __init__(self, language: str) -> None:
        self._language = language
        self._denies: dict[str, bool] = {}

    def add(self, word: str, gloss: str) -> None:
        """Take one gloss of a word into account. The word must be in lower case."""
        if self._language != "en" or not base_of(word):
            return
        denies = bool(NEGATING_GLOSS.search(gloss))
        self._denies[word] = self._denies.get(word, True) and denies

    def result(self) -> dict[str, str | None]:
        """Return word -> the base that it negates, or None if the word is not a negation."""
        return {word: base_of(word) if denies else None for word, denies in self._denies.items()}


RelatedWords = Mapping[str, Collection[str]]


def negations(
    synonyms: RelatedWords,
    antonyms: RelatedWords,
    words: Collection[str],
    verdicts: Mapping[str, str | None],
    morpholex: Mapping[str, bool],
) -> dict[str, str]:
    """Return negated word -> base, decided in the order that this module's docstring gives.

    synonyms, antonyms: the stated relations of at least every English word with a negating affix.
    words: all English words. verdicts: see GlossVerdicts.result.
    morpholex: word -> whether it has an odd number of negating affixes.
    """
    found = {}
    for word in sorted(words):
        base = base_of(word)
        # `uncle` begins with an affix, but `cle` is not a word of any source.
        if base is None or base not in words:
            continue
        if base in antonyms.get(word, ()):
            is_negation = True
        elif word in morpholex:
            is_negation = morpholex[word] and base not in synonyms.get(word, ())
        elif word in verdicts:
            is_negation = verdicts[word] == base
        else:
            is_negation = looks_negated(word, base, synonyms)
        if is_negation:
            found[word] = base
    return found


def looks_negated(word: str, base: str, synonyms: RelatedWords) -> bool:
    """Return whether a word without any gloss is taken for a negation of its base.

    `un-`, `non-` and `-less` are trusted (`unlit`), unless word and base are stated synonyms.
    `dis-` and `in- im- il- ir-` are more often no negation (`discover`, `income`, `impact`). They
    need a synonym that negates the base or one of the base's synonyms: `dishonour` has the synonym
    `dishonor`, which negates `honor`, a synonym of `honour`. For `in- im- il- ir-`, the ending of
    an adjective or abstract noun is also enough (`insalubrious`).
    """
    if base in synonyms.get(word, ()):
        return False
    if word.endswith(SUFFIX) or word.startswith(("un", "non")):
        return True
    base_and_synonyms = {base, *synonyms.get(base, ())}
    if any(base_of(other) in base_and_synonyms for other in synonyms.get(word, ())):
        return True
    return not word.startswith("dis") and bool(ABSTRACT_ENDING.search(word))

"""[[senses.lexicons]]: the sources of word relations, and the rules about them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from dskd_ds.spec.base import Part
from dskd_ds.spec.problems import Problem

NEGATING_AFFIXES = ("un-", "dis-", "non-", "in-", "im-", "il-", "ir-", "-less")
"""Affixes that negate a word, unless the spec has another list."""

LexiconKind = Literal[
    "wordnet", "wiktextract", "dict2vec", "pairs", "mythes", "moby", "tsv", "table"
]


class LexiconSpec(Part):
    """One source of word relations."""

    kind: LexiconKind
    """Format of the lexicon: WordNet's database, Wiktextract JSONL, Dict2Vec strong pairs, two
    files of word pairs, a MyThes or Moby thesaurus, tab-separated text (word, relation, other), or
    a Parquet table that `dskd senses lexicon --output` wrote."""
    path: str | None = None
    """File of the lexicon. For kind = "wordnet" the folder of database files (`data.noun`, ...);
    for "dict2vec" a file or the folder of pair lists. Not for "pairs"."""
    synonyms: str | None = None
    """File of synonyms for kind = "pairs": two words per line, separated by blanks."""
    antonyms: str | None = None
    """File of antonyms for kind = "pairs": two words per line, separated by blanks."""
    lists: Literal["all", "senses"] = "all"
    """Which lists of an entry are read, for kind = "wiktextract". `all`: those of the entry and of
    its senses. `senses` (paper): those of its senses; text after `#` is cut off, and so is a lone
    semicolon."""
    language: str = "en"
    """Language code of the lexicon's words as in Wiktionary (`en`, `fr`). In kind = "table" each
    row has its own."""

    @property
    def files(self) -> tuple[str, ...]:
        """The files or folders that the source is read from."""
        named = (self.path, self.synonyms, self.antonyms)
        return tuple(path for path in named if path is not None)


def lexicon_problems(index: int, lexicon: LexiconSpec) -> Iterator[Problem]:
    """Yield what is wrong with the keys of the section [[senses.lexicons]] with this index."""
    key = f"senses.lexicons.{index}"
    if lexicon.kind == "pairs":
        if lexicon.path is not None:
            yield Problem(
                key=f"{key}.path",
                value=lexicon.path,
                reason='kind = "pairs" has a file per relation',
                way_out="name it in synonyms or antonyms instead",
            )
        elif not lexicon.files:
            yield Problem(
                key=f"{key}.synonyms",
                value=None,
                reason='kind = "pairs" needs a file of synonyms or of antonyms',
                way_out="give synonyms, antonyms or both",
            )
    else:
        if lexicon.path is None:
            yield Problem(
                key=f"{key}.path",
                value=None,
                reason=f'kind = "{lexicon.kind}" is read from a path',
                way_out="give path",
            )
        for name in ("synonyms", "antonyms"):
            value = getattr(lexicon, name)
            if value is not None:
                yield Problem(
                    key=f"{key}.{name}",
                    value=value,
                    reason=f'kind = "{lexicon.kind}" does not read it',
                    way_out='set kind = "pairs", or remove the key',
                )
    if lexicon.lists != "all" and lexicon.kind != "wiktextract":
        yield Problem(
            key=f"{key}.lists",
            value=lexicon.lists,
            reason=f'kind = "{lexicon.kind}" has no lists of entries and senses',
            way_out="remove the key",
        )

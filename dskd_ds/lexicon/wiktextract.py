"""Reader for Wiktextract's JSONL (`kaikki.org-dictionary-*.jsonl`, plain or `.gz`), as a stream.

Each line is one Wiktionary entry with `word`, `lang_code` and `pos`. Links to other words are
objects with a `word`; they are listed under `synonyms` and `antonyms`, both of each of the
entry's `senses` (where Wiktionary states the meaning) and of the entry itself (where it does
not). Redirects have no `lang_code`. The paper's authors read the lists of senses only, and cut
a linked word at `#`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dskd_ds.lexicon.lines import read_lines
from dskd_ds.lexicon.negation import GlossVerdicts
from dskd_ds.lexicon.table import SourceRows

LINK_KEYS = (("synonyms", False), ("antonyms", True))
"""Key of a list of links, and whether it lists antonyms."""


@dataclass(frozen=True)
class _Entry:
    """What is used of one Wiktionary entry."""

    word: str
    pos: str
    links: list[tuple[str, bool]]
    """(linked word, whether it is an antonym)."""
    glosses: list[str]
    """Definitions, except those that only name the base form of an inflected word."""


def read_wiktextract(path: Path, source: SourceRows, *, only_senses: bool = False) -> None:
    """Add the entries of the source's language to `source`; skip other languages.

    only_senses: read only the lists of senses, as the paper's authors do.
    """
    verdicts = GlossVerdicts(source.language)
    for line_number, line in read_lines(path, source.line_counts):
        try:
            entry = _parse(line, source.language, only_senses)
        # A damaged line can also be valid JSON of another shape, such as a list.
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"not a Wiktextract entry ({type(error).__name__}): {line[:60]!r}"
            source.line_counts.add_malformed(path, line_number, reason)
            continue
        if entry is None:
            continue
        for other, is_antonym in entry.links:
            source.add(entry.word, other, is_antonym, entry.pos)
        for gloss in entry.glosses:
            verdicts.add(entry.word.lower(), gloss)
    source.verdicts.update(verdicts.result())


def _parse(line: str, language: str, only_senses: bool) -> _Entry | None:
    """Return the line's entry, or None for a redirect or another language.

    Raises ValueError, KeyError, TypeError or AttributeError if the line is not an entry.
    """
    entry = json.loads(line)
    if "redirect" in entry or entry["lang_code"] != language:
        return None
    senses = entry.get("senses", [])
    owners = senses if only_senses else (entry, *senses)
    links = [link for owner in owners for link in _links(owner)]
    if only_senses:
        links = [(word.split("#")[0].strip(), is_antonym) for word, is_antonym in links]
        links = [link for link in links if link[0] not in ("", ";")]
    glosses: list[str] = []
    for sense in senses:
        if "form_of" not in sense:
            glosses += [str(gloss) for gloss in sense.get("glosses", [])]
    return _Entry(str(entry["word"]), str(entry.get("pos", "")), links, glosses)


def _links(owner: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """Yield (linked word, whether it is an antonym) of an entry or of one of its senses."""
    for key, is_antonym in LINK_KEYS:
        for link in owner.get(key, []):
            if word := link.get("word"):
                yield str(word), is_antonym

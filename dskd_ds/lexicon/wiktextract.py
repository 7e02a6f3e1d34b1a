"""Wiktextract's JSONL (`kaikki.org-dictionary-*.jsonl`, plain or `.gz`): one entry of Wiktionary a line, read as a stream.

An entry has `word`, `lang_code`, `pos`; links to other words are objects with a `word`, in `synonyms` and `antonyms` of each of its
`senses` (where Wiktionary says which meaning) and of the entry itself (where it does not). Redirects have no `lang_code`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dskd_ds.lexicon.lines import read_lines
from dskd_ds.lexicon.negation import GlossVerdicts
from dskd_ds.lexicon.table import SourceRows

LINKS = (("synonyms", False), ("antonyms", True))


def read_wiktextract(path: Path, source: SourceRows) -> None:
    """Entries of the source's language; those of other languages are passed over."""
    verdicts = GlossVerdicts(source.language)
    for number, line in read_lines(path, source.damage):
        try:
            entry = json.loads(line)
            if "redirect" in entry or entry["lang_code"] != source.language:
                continue
            word, pos, senses = (
                str(entry["word"]),
                str(entry.get("pos", "")),
                entry.get("senses", []),
            )
            links = [link for part in (entry, *senses) for link in _links(part)]
            glosses = [
                str(gloss)
                for sense in senses
                if "form_of" not in sense
                for gloss in sense.get("glosses", [])
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            source.damage.malformed(
                path,
                number,
                f"this is no entry of Wiktextract ({type(error).__name__}): {line[:60]!r}",
            )
            continue
        for other, opposite in links:
            source.add(word, other, opposite, pos)
        for gloss in glosses:
            verdicts.add(word.lower(), gloss)
    source.verdicts.update(verdicts.result())


def _links(part: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    for key, opposite in LINKS:
        for link in part.get(key, []):
            if word := link.get("word"):
                yield str(word), opposite

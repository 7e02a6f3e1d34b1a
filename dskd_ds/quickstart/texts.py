"""The quickstart's texts as JSONL with title and text.

Wikipedia lead sections to train on, the beginnings of whole articles to evaluate on.
"""

from __future__ import annotations

import bz2
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.etree import ElementTree

from dskd_ds.files.atomic import atomic_file

MIN_CHARACTERS = 200
MAX_MARKUP = 20_000
"""Characters of an article that are read: parsing markup is slow, and the evaluation takes a few thousand tokens."""
FOOTNOTE = re.compile(r"<ref[^>/]*/>|<ref.*?</ref>|<!--.*?-->", re.DOTALL)
SKIPPED_PARTS = re.compile(
    r"==\s*(References|External links|See also|Further reading|Notes|Bibliography)\s*==",
    re.IGNORECASE,
)


def write_leads(source: Path, target: Path) -> int:
    """`{title: {extract, ...}}` -> JSONL. Returns the number of documents."""
    entries: dict[str, dict[str, str]] = json.loads(source.read_text(encoding="utf-8"))
    return _write(((title, entry["extract"]) for title, entry in entries.items()), target)


def write_articles(source: Path, target: Path) -> int:
    """A compressed MediaWiki export -> JSONL of plain text, without redirects and back matter. Returns the number of documents."""
    return _write(_articles(source), target)


def _articles(source: Path) -> Iterator[tuple[str, str]]:
    with bz2.open(source) as file:
        title = ""
        for _, element in ElementTree.iterparse(file):
            name = element.tag.rpartition("}")[2]
            if name == "title":
                title = element.text or ""
            elif name == "text" and not (element.text or "").upper().startswith("#REDIRECT"):
                yield title, plain_text(element.text or "")
            elif name == "page":
                element.clear()


def plain_text(markup: str) -> str:
    """Wiki markup -> prose: no templates, tables, references, file captions or lists of links; headings go."""
    import mwparserfromhell

    code = mwparserfromhell.parse(FOOTNOTE.sub("", SKIPPED_PARTS.split(markup)[0])[:MAX_MARKUP])
    for link in code.filter_wikilinks(matches=r"^\[\[\s*(File|Image|Category)\s*:"):
        try:
            code.remove(link)
        except ValueError:
            continue  # went with the link around it
    lines = (line.strip() for line in code.strip_code(normalize=True, collapse=True).splitlines())
    return "\n".join(
        line
        for line in lines
        if len(line) > 60 and not line.startswith(("|", "{", "!", "*", "thumb|"))
    )


def _write(documents: Iterable[tuple[str, str]], target: Path) -> int:
    number = 0
    with atomic_file(target) as partial, partial.open("w", encoding="utf-8") as file:
        for title, text in documents:
            if len(text) >= MIN_CHARACTERS:
                file.write(json.dumps({"title": title, "text": text}, ensure_ascii=False) + "\n")
                number += 1
    return number

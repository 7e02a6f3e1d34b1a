"""Writes the quickstart's texts as JSONL with the columns title and text.

Wikipedia's lead sections are for training, the beginnings of whole articles for evaluation.
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
"""Shorter documents are left out."""
MAX_MARKUP = 20_000
"""Number of characters of an article that are parsed: parsing is slow, and the evaluation needs
only a few thousand tokens."""
FOOTNOTE = re.compile(r"<ref[^>/]*/>|<ref.*?</ref>|<!--.*?-->", re.DOTALL)
SKIPPED_PARTS = re.compile(
    r"==\s*(References|External links|See also|Further reading|Notes|Bibliography)\s*==",
    re.IGNORECASE,
)


def write_leads(source: Path, target: Path) -> int:
    """Convert `{title: {extract, ...}}` to JSONL and return the number of documents."""
    entries: dict[str, dict[str, str]] = json.loads(source.read_text(encoding="utf-8"))
    documents = ((title, entry["extract"]) for title, entry in entries.items())
    return _write(documents, target)


def write_articles(source: Path, target: Path) -> int:
    """Convert a compressed MediaWiki export to JSONL of plain text, without redirects.

    Return the number of documents.
    """
    return _write(_articles(source), target)


def _articles(source: Path) -> Iterator[tuple[str, str]]:
    """Yield title and plain text of each article. Each page is freed as soon as it is read."""
    with bz2.open(source) as file:
        title = ""
        for _, element in ElementTree.iterparse(file):
            name = element.tag.rpartition("}")[2]  # without the XML namespace
            if name == "title":
                title = element.text or ""
            elif name == "text" and not (element.text or "").upper().startswith("#REDIRECT"):
                yield title, plain_text(element.text or "")
            elif name == "page":
                element.clear()


def plain_text(markup: str) -> str:
    """Return the prose of wiki markup.

    Templates, tables, references, file captions, lists of links, headings and back matter are
    removed.
    """
    import mwparserfromhell

    body = SKIPPED_PARTS.split(markup)[0]
    code = mwparserfromhell.parse(FOOTNOTE.sub("", body)[:MAX_MARKUP])
    # `strip_code` would keep the captions of files and the names of categories.
    for link in code.filter_wikilinks(matches=r"^\[\[\s*(File|Image|Category)\s*:"):
        try:
            code.remove(link)
        except ValueError:
            continue  # it was inside a link that is removed already
    text = code.strip_code(normalize=True, collapse=True)
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if _is_prose(line))


def _is_prose(line: str) -> bool:
    """Return whether a line is a paragraph: long, and not the remainder of a table or a list."""
    return len(line) > 60 and not line.startswith(("|", "{", "!", "*", "thumb|"))


def _write(documents: Iterable[tuple[str, str]], target: Path) -> int:
    """Write the documents that are long enough as JSONL, and return their number."""
    count = 0
    with atomic_file(target) as partial, partial.open("w", encoding="utf-8") as file:
        for title, text in documents:
            if len(text) >= MIN_CHARACTERS:
                file.write(json.dumps({"title": title, "text": text}, ensure_ascii=False) + "\n")
                count += 1
    return count

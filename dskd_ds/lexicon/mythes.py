"""Reader for MyThes thesauri (`th_en_US_v2.dat`).

The first line names the encoding. Each head word is a line `word|n`, followed by n lines of
meanings `(pos)|term|term (tag)|...`. Terms are read by their tags:

- no tag, or `(similar term)` (WordNet's adjective satellites: near synonyms): a synonym;
- a tag that says antonym in any language (`(antonym)`, `(Antónimo)`): an antonym;
- `(generic term)`, a hypernym, and `(related term)`, a see-also: not read;
- any other remark (`(familier)`, `(fig.)`) is about usage: a synonym.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from dskd_ds.errors import InputError
from dskd_ds.lexicon.lines import LineCounts, read_lines
from dskd_ds.lexicon.table import SourceRows

REMARK = re.compile(r"\(([^()]*)\)")
ANTONYM_TAG = re.compile(r"ant.{1,4}n[iy]m", re.IGNORECASE)
"""Matches `antonym`, `Antónimo`, `antonyme`, and the Spanish file's damaged form, which has three
characters in place of `ó`."""
OTHER_RELATIONS = {"generic term", "related term", "oberbegriff", "unterbegriff"}
MAX_MEANINGS = 1000
"""A line that announces this many meanings or more is not taken for a head line."""


def read_mythes(path: Path, source: SourceRows) -> None:
    """Add the pairs of one `.dat` file to `source`.

    Raises InputError if the file does not start with an encoding.
    """
    for head, meaning in _meanings(path, source.line_counts, _encoding(path)):
        label, *terms = meaning.split("|")
        pos = label.strip("() -.").split(" ")[0].rstrip(".")
        for term in terms:
            tags = [tag.strip().lower() for tag in REMARK.findall(term)]
            if OTHER_RELATIONS.intersection(tags):
                continue
            is_antonym = any(ANTONYM_TAG.match(tag) for tag in tags)
            source.add(head, REMARK.sub(" ", term), is_antonym, pos)


def _encoding(path: Path) -> str:
    """Return the encoding that the first line names. Raises InputError if it names none."""
    try:
        with path.open("rb") as file:
            name = file.readline(100).decode("ascii", "replace").strip()
        return codecs.lookup(name).name
    except OSError as error:
        raise InputError(
            f'[[senses.lexicons]] path = "{path}": the file cannot be read: {error.strerror}.\n'
            "  name a thesaurus file (Debian: mythes-en-us, /usr/share/mythes/th_en_US_v2.dat)."
        ) from None
    except (LookupError, ValueError):  # a NUL in the name is a ValueError
        raise InputError(
            f'[[senses.lexicons]] path = "{path}" is not a MyThes file: its first line {name!r}'
            " names no encoding.\n"
            "  name a .dat file of a thesaurus."
        ) from None


def _meanings(path: Path, line_counts: LineCounts, encoding: str) -> Iterator[tuple[str, str]]:
    """Yield (head word, line of one of its meanings).

    If a head announces the wrong number of lines, reading continues at the next head.
    """
    head, num_missing = "", 0
    for line_number, line in read_lines(path, line_counts, encoding):
        if line_number == 1 or not line:
            continue
        num_meanings = _num_meanings(line)
        # The announced number is not relied on: a head line is recognised wherever it stands.
        if num_missing and not num_meanings and "|" in line:
            num_missing -= 1
            yield head, line
        elif num_meanings:
            if num_missing:
                reason = f"{num_missing} lines of meaning are missing before it: {line[:60]!r}"
                line_counts.add_malformed(path, line_number, reason)
            head, num_missing = line.partition("|")[0], num_meanings
        else:
            reason = f"neither a head word nor a meaning: {line[:60]!r}"
            line_counts.add_malformed(path, line_number, reason)


def _num_meanings(line: str) -> int:
    """Return the number of meanings that a head line announces, or 0 if the line is not a head."""
    word, _, count = line.partition("|")
    if not word or word.startswith(("(", "-")) or not count.isdecimal():
        return 0
    return int(count) if int(count) < MAX_MEANINGS else 0

"""MyThes thesauri (`th_en_US_v2.dat`): the encoding, then for each head `word|n` and n lines `(pos)|term|term (tag)|...`.

What counts: a term without a tag and a `(similar term)` (WordNet's satellites of an adjective: near synonyms) are synonyms, a term
whose tag says antonym in any language (`(antonym)`, `(Antónimo)`) is one. `(generic term)` is a hypernym and `(related term)` a
see-also: neither is read. Any other remark in parentheses (`(familier)`, `(fig.)`) is about usage, and the term is a synonym.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from dskd_ds.errors import InputError
from dskd_ds.lexicon.lines import Damage, read_lines
from dskd_ds.lexicon.table import SourceRows

REMARK = re.compile(r"\(([^()]*)\)")
ANTONYM_TAG = re.compile(r"ant.{1,4}n[iy]m", re.IGNORECASE)
"""`antonym`, `Antónimo`, `antonyme`; and the Spanish file's own damage (three characters in place of its `ó`)."""
OTHER_RELATIONS = {"generic term", "related term", "oberbegriff", "unterbegriff"}
MAX_MEANINGS = 1000


def read_mythes(path: Path, source: SourceRows) -> None:
    """Read one `.dat` file. Raises InputError if it does not start with an encoding."""
    for head, meaning in _meanings(path, source.damage, _encoding(path)):
        label, *terms = meaning.split("|")
        pos = label.strip("() -.").split(" ")[0].rstrip(".")
        for term in terms:
            tags = [tag.strip().lower() for tag in REMARK.findall(term)]
            if not OTHER_RELATIONS.intersection(tags):
                source.add(head, REMARK.sub(" ", term), any(map(ANTONYM_TAG.match, tags)), pos)


def _encoding(path: Path) -> str:
    try:
        with path.open("rb") as file:
            name = file.readline(100).decode("ascii", "replace").strip()
        return codecs.lookup(name).name
    except OSError as error:
        raise InputError(
            f'[senses.lexicons] path = "{path}", but it cannot be read: {error.strerror}.\n'
            "  name a thesaurus file (Debian: mythes-en-us, /usr/share/mythes/th_en_US_v2.dat)."
        ) from None
    except (LookupError, ValueError):  # a NUL in the name is a ValueError
        raise InputError(
            f'[senses.lexicons] path = "{path}", but its first line {name!r} names no encoding, so it is no MyThes file.\n'
            "  name a .dat file of a thesaurus."
        ) from None


def _meanings(path: Path, damage: Damage, encoding: str) -> Iterator[tuple[str, str]]:
    """(head, line of a meaning). After a head that promised too many or too few lines, reading goes on at the next head."""
    head, missing = "", 0
    for number, line in read_lines(path, damage, encoding):
        if number == 1 or not line:
            continue
        word, _, count = line.partition("|")
        is_head = (
            bool(word)
            and count.isdecimal()
            and 0 < int(count) < MAX_MEANINGS
            and not word.startswith(("(", "-"))
        )
        if missing and not is_head and "|" in line:
            missing -= 1
            yield head, line
        elif is_head:
            if missing:
                damage.malformed(
                    path, number, f"{missing} lines of meaning are missing before it: {line[:60]!r}"
                )
            head, missing = word, int(count)
        else:
            damage.malformed(path, number, f"this is neither a head nor a meaning: {line[:60]!r}")

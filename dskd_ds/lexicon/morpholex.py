"""MorphoLEX as a CSV or TSV export of its workbook (Sánchez-Gutiérrez et al., 2018): which words carry negating affixes.

Two of its columns are read, `Word` and `MorphoLexSegm`. A segmentation marks prefixes `<un<`, roots `(happy)` and suffixes
`>less>`: `{<un<(happy)>ness>}`.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from dskd_ds.errors import InputError
from dskd_ds.lexicon.lines import Damage, read_lines
from dskd_ds.lexicon.negation import PREFIXES, SUFFIX

PREFIX_MARK = re.compile(r"<([^<>(){}]+)<")
SUFFIX_MARK = re.compile(r">([^<>(){}]+)>")
DELIMITERS = "\t;,"


def read_morpholex(path: Path) -> tuple[dict[str, bool], Damage]:
    """Word -> whether an odd number of negating affixes is in it (two cancel). Raises InputError if the columns are missing."""
    damage = Damage()
    result: dict[str, bool] = {}
    columns: tuple[str, int, int] | None = None
    for number, line in read_lines(path, damage):
        if columns is None:
            columns = _columns(path, line.removeprefix("\ufeff"))
            continue
        delimiter, word_at, segmentation_at = columns
        fields = next(csv.reader([line], delimiter=delimiter), [])
        if len(fields) > max(word_at, segmentation_at) and "(" in fields[segmentation_at]:
            result[fields[word_at].strip().lower()] = num_negating(fields[segmentation_at]) % 2 == 1
        elif fields:
            damage.malformed(path, number, f"no word with a segmentation: {line[:60]!r}")
    if not result:
        raise InputError(
            f'[senses] morpholex = "{path}", but it holds no segmented word.\n'
            "  export MorphoLEX's sheets as CSV, with the columns Word and MorphoLexSegm."
        )
    return result, damage


def _columns(path: Path, header: str) -> tuple[str, int, int]:
    for delimiter in DELIMITERS:
        names = [
            name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter), [])
        ]
        if {"word", "morpholexsegm"} <= set(names):
            return delimiter, names.index("word"), names.index("morpholexsegm")
    raise InputError(
        f'[senses] morpholex = "{path}", but its first line names no columns Word and MorphoLexSegm: {header[:80]!r}.\n'
        "  export MorphoLEX's sheets as CSV, with their headers."
    )


def num_negating(segmentation: str) -> int:
    """How many negating affixes a segmentation has."""
    prefixes: list[str] = PREFIX_MARK.findall(segmentation)
    suffixes: list[str] = SUFFIX_MARK.findall(segmentation)
    return len([prefix for prefix in prefixes if prefix in PREFIXES]) + suffixes.count(SUFFIX)

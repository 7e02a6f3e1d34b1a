"""Reader for MorphoLEX as CSV or TSV (Sánchez-Gutiérrez et al., 2018): words with negating affixes.

Two columns of the exported workbook are read, `Word` and `MorphoLexSegm`. A segmentation marks
prefixes `<un<`, roots `(happy)` and suffixes `>less>`, for example `{<un<(happy)>ness>}`.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from dskd_ds.errors import InputError
from dskd_ds.lexicon.lines import LineCounts, read_lines
from dskd_ds.lexicon.negation import PREFIXES, SUFFIX

PREFIX_MARK = re.compile(r"<([^<>(){}]+)<")
SUFFIX_MARK = re.compile(r">([^<>(){}]+)>")
DELIMITERS = "\t;,"


@dataclass(frozen=True)
class _Layout:
    """How a file is laid out: its delimiter and the indices of the two columns."""

    delimiter: str
    word_column: int
    segmentation_column: int


def read_morpholex(path: Path) -> tuple[dict[str, bool], LineCounts]:
    """Return word -> whether it has an odd number of negating affixes (two cancel), and the counts.

    Raises InputError if the columns are missing or no line has a segmentation.
    """
    line_counts = LineCounts()
    is_negated: dict[str, bool] = {}
    layout: _Layout | None = None
    for line_number, line in read_lines(path, line_counts):
        if layout is None:
            # Spreadsheet programs may start an export with a byte order mark.
            layout = _layout(path, line.removeprefix("\ufeff"))
            continue
        fields = _split(line, layout.delimiter)
        entry = _word_and_segmentation(fields, layout)
        if entry:
            word, segmentation = entry
            is_negated[word] = num_negating(segmentation) % 2 == 1
        elif fields:
            reason = f"expected a word and a segmentation: {line[:60]!r}"
            line_counts.add_malformed(path, line_number, reason)
    if not is_negated:
        raise InputError(
            f'[senses] morpholex = "{path}" is invalid: the file contains no segmented word.\n'
            "  export MorphoLEX's sheets as CSV, with the columns Word and MorphoLexSegm."
        )
    return is_negated, line_counts


def _split(line: str, delimiter: str) -> list[str]:
    """Return the fields of one CSV line."""
    return next(csv.reader([line], delimiter=delimiter), [])


def _word_and_segmentation(fields: list[str], layout: _Layout) -> tuple[str, str] | None:
    """Return the word in lower case and its segmentation, or None if the line has none."""
    if len(fields) <= max(layout.word_column, layout.segmentation_column):
        return None
    segmentation = fields[layout.segmentation_column]
    if "(" not in segmentation:
        return None
    return fields[layout.word_column].strip().lower(), segmentation


def _layout(path: Path, header: str) -> _Layout:
    """Return the delimiter and columns of a header. Raises InputError if a column is missing."""
    for delimiter in DELIMITERS:
        names = [name.strip().lower() for name in _split(header, delimiter)]
        if "word" in names and "morpholexsegm" in names:
            return _Layout(delimiter, names.index("word"), names.index("morpholexsegm"))
    raise InputError(
        f'[senses] morpholex = "{path}" is invalid: the first line has no columns Word and'
        f" MorphoLexSegm: {header[:80]!r}.\n"
        "  export MorphoLEX's sheets as CSV, with their headers."
    )


def num_negating(segmentation: str) -> int:
    """Return the number of negating affixes in a segmentation."""
    prefixes: list[str] = PREFIX_MARK.findall(segmentation)
    suffixes: list[str] = SUFFIX_MARK.findall(segmentation)
    num_prefixes = sum(prefix in PREFIXES for prefix in prefixes)
    return num_prefixes + suffixes.count(SUFFIX)

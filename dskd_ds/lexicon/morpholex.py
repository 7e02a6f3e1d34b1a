"""Reader for MorphoLEX (Sánchez-Gutiérrez et al., 2018): words with negating affixes.

Two columns are read, `Word` and `MorphoLexSegm`, from every sheet of the workbook (`.xlsx`) that
has them, or from a sheet exported as CSV or TSV. A segmentation marks prefixes `<un<`, roots
`(happy)` and suffixes `>less>`, for example `{<un<(happy)>ness>}`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dskd_ds.errors import InputError
from dskd_ds.lexicon.lines import LineCounts, read_lines
from dskd_ds.lexicon.workbook import WORKBOOK_SUFFIXES, read_sheets
from dskd_ds.spec.lexicons import NEGATING_AFFIXES

PIECE = re.compile(r"<(?P<prefix>[^<>(){}]+)<|\((?P<root>[^<>(){}]+)\)|>(?P<suffix>[^<>(){}]+)>")
DELIMITERS = "\t;,"
COLUMNS = ("word", "morpholexsegm")


@dataclass(frozen=True)
class Segmented:
    """What the segmentation of a word says about negation."""

    is_negated: bool
    """Whether it has an odd number of negating affixes: two cancel."""
    base: str
    """The pieces that are left without them, joined (`happyness` of `unhappiness`)."""


def read_morpholex(
    path: Path, affixes: Sequence[str] = NEGATING_AFFIXES
) -> tuple[dict[str, Segmented], LineCounts]:
    """Return word in lower case -> what its segmentation says, and the counts of lines.

    affixes: those that negate, with a hyphen where the word goes on.
    Raises InputError if the columns are missing or no line has a segmentation.
    """
    line_counts = LineCounts()
    if path.suffix.lower() in WORKBOOK_SUFFIXES:
        entries = _workbook_entries(path, line_counts)
    else:
        entries = _text_entries(path, line_counts)
    words = {word: segmented(segmentation, affixes) for word, segmentation in entries}
    if not words:
        raise InputError(
            f'[senses] morpholex = "{path}" is invalid: the file contains no segmented word.\n'
            "  name MorphoLEX's workbook, or sheets exported as CSV with the columns Word and"
            " MorphoLexSegm."
        )
    return words, line_counts


def segmented(segmentation: str, affixes: Sequence[str] = NEGATING_AFFIXES) -> Segmented:
    """Return what a segmentation says about negation. affixes: see read_morpholex."""
    num_negating = 0
    left: list[str] = []
    for piece in PIECE.finditer(segmentation):
        prefix, root, suffix = piece.group("prefix", "root", "suffix")
        is_negating = f"{prefix}-" in affixes or f"-{suffix}" in affixes
        if is_negating:
            num_negating += 1
        else:
            left.append(prefix or root or suffix)
    return Segmented(num_negating % 2 == 1, "".join(left).lower())


def _workbook_entries(path: Path, line_counts: LineCounts) -> Iterator[tuple[str, str]]:
    """Yield (word, segmentation) from all sheets that have the two columns.

    The other sheets (a presentation, lists of affixes and roots) are skipped. Raises InputError if
    no sheet has the columns.
    """
    num_data_sheets = 0
    for title, rows in read_sheets(path, "[senses] morpholex"):
        columns = _columns(next(iter(rows), ()))
        if columns is None:
            continue
        num_data_sheets += 1
        for line_number, row in enumerate(rows, start=2):
            line_counts.num_lines += 1
            if entry := _word_and_segmentation(row, columns):
                yield entry
            elif any(row):
                reason = f"sheet {title}: expected a word and a segmentation: {row[:3]}"
                line_counts.add_malformed(path, line_number, reason)
    if not num_data_sheets:
        raise InputError(
            f'[senses] morpholex = "{path}" is invalid: no sheet has the columns Word and'
            " MorphoLexSegm.\n"
            "  name MorphoLEX's workbook (dskd senses lexicon get morpholex)."
        )


def _text_entries(path: Path, line_counts: LineCounts) -> Iterator[tuple[str, str]]:
    """Yield (word, segmentation) from an exported sheet. Raises InputError without the columns."""
    delimiter, columns = "", (0, 0)
    for line_number, line in read_lines(path, line_counts):
        if not delimiter:
            # Spreadsheet programs may start an export with a byte order mark.
            delimiter, columns = _layout(path, line.removeprefix("\ufeff"))
            continue
        fields = _split(line, delimiter)
        if entry := _word_and_segmentation(fields, columns):
            yield entry
        elif fields:
            reason = f"expected a word and a segmentation: {line[:60]!r}"
            line_counts.add_malformed(path, line_number, reason)


def _split(line: str, delimiter: str) -> list[str]:
    """Return the fields of one CSV line."""
    return next(csv.reader([line], delimiter=delimiter), [])


def _layout(path: Path, header: str) -> tuple[str, tuple[int, int]]:
    """Return the delimiter of a header and its two columns. Raises InputError if one is missing."""
    for delimiter in DELIMITERS:
        columns = _columns(_split(header, delimiter))
        if columns is not None:
            return delimiter, columns
    raise InputError(
        f'[senses] morpholex = "{path}" is invalid: the first line has no columns Word and'
        f" MorphoLexSegm: {header[:80]!r}.\n"
        "  name MorphoLEX's workbook, or export its sheets as CSV with their headers."
    )


def _columns(header: Iterable[str]) -> tuple[int, int] | None:
    """Return the indices of the columns of words and segmentations, or None if one is missing."""
    names = [name.strip().lower() for name in header]
    if not set(COLUMNS) <= set(names):
        return None
    word, segmentation = COLUMNS
    return names.index(word), names.index(segmentation)


def _word_and_segmentation(
    fields: Sequence[str], columns: tuple[int, int]
) -> tuple[str, str] | None:
    """Return the word in lower case and its segmentation, or None if the row has none."""
    if len(fields) <= max(columns):
        return None
    word, segmentation = (fields[column] for column in columns)
    if "(" not in segmentation:
        return None
    return word.strip().lower(), segmentation

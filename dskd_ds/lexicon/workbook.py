"""Reads the sheets of an Excel workbook row by row, with openpyxl (extra `lexicon`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile

from dskd_ds.errors import InputError

WORKBOOK_SUFFIXES = (".xlsx", ".xlsm")

Row = tuple[str, ...]
"""The cells of a row as text; an empty cell is an empty string."""


def read_sheets(path: Path, key: str) -> Iterator[tuple[str, Iterator[Row]]]:
    """Yield (title, rows) of every sheet. The rows must be read before the next sheet is asked for.

    key: the setting that names the file. Raises InputError if the file is no workbook, or if
    openpyxl is not installed.
    """
    try:
        import openpyxl
    except ImportError:
        raise InputError(
            f'{key} = "{path}": openpyxl, which reads workbooks, is not installed.\n'
            "  pip install 'dskd-ds[lexicon]', or export the sheets as CSV."
        ) from None
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (OSError, BadZipFile, KeyError, ValueError) as error:
        raise InputError(
            f'{key} = "{path}": the file is not a workbook that can be read: {error}.\n'
            "  download it again."
        ) from None
    try:
        for sheet in book.worksheets:
            yield sheet.title, (_texts(row) for row in sheet.iter_rows(values_only=True))
    finally:
        book.close()


def _texts(row: tuple[object, ...]) -> Row:
    """Return the cells as text. A word such as `true` is stored as a truth value."""
    return tuple("" if cell is None else str(cell) for cell in row)

"""Read text files line by line in bounded memory, with a progress bar and a count of bad lines."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tqdm import tqdm

from dskd_ds.errors import InputError

NUM_EXAMPLES = 3
"""Malformed lines that are quoted in messages; further ones are only counted."""
MIN_PROGRESS_BYTES = 32 << 20
"""Files smaller than this are read too quickly to need a progress bar."""
LINES_PER_UPDATE = 1024
"""Lines between two updates of the progress bar."""


class LineCounts:
    """Counts the lines that were read and the malformed ones among them."""

    def __init__(self) -> None:
        self.num_lines = 0
        self.num_malformed = 0
        self.examples: list[str] = []
        """The first malformed lines, each with its file, line number and reason."""

    def add_malformed(self, path: Path, line_number: int, reason: str) -> None:
        """Count one malformed line of a file. Line numbers start at 1."""
        self.num_malformed += 1
        if len(self.examples) < NUM_EXAMPLES:
            self.examples.append(f"{path}, line {line_number}: {reason}")


def read_lines(
    path: Path, line_counts: LineCounts, encoding: str = "utf-8"
) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text without the line ending) of every line that can be decoded.

    A `.gz` file is decompressed while it is read. Lines that cannot be decoded are counted as
    malformed. Raises InputError if the file cannot be opened.
    """
    try:
        raw = path.open("rb")
    except OSError as error:
        raise InputError(
            f"{path}: the file cannot be read: {error.strerror}.\n"
            "  [[senses.lexicons]] path and [senses] morpholex must name readable files."
        ) from None
    size = path.stat().st_size
    progress = tqdm(
        total=size,
        desc=f"reading {path.name}",
        unit="B",
        unit_scale=True,
        disable=size < MIN_PROGRESS_BYTES,
    )
    with raw, progress:
        for line_number, line in _raw_lines(raw, path, line_counts):
            line_counts.num_lines += 1
            if line_number % LINES_PER_UPDATE == 0:
                # The position in the file as stored, so that the bar is right for `.gz` too.
                progress.update(raw.tell() - progress.n)
            try:
                text = line.decode(encoding)
            except UnicodeDecodeError as error:
                reason = f"byte {error.start + 1} is not valid {encoding}"
                line_counts.add_malformed(path, line_number, reason)
                continue
            yield line_number, text.rstrip("\r\n")
        progress.update(raw.tell() - progress.n)


def _raw_lines(raw: IO[bytes], path: Path, line_counts: LineCounts) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, bytes). A damaged compressed file ends with one malformed line."""
    lines = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
    line_number = 0
    try:
        for line in lines:
            line_number += 1
            yield line_number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        line_counts.num_lines += 1
        reason = f"the compressed file ends early or is damaged ({error})"
        line_counts.add_malformed(path, line_number + 1, reason)

"""Text files line by line, in bounded memory, with progress by bytes; lines that make no sense are counted, the first ones named."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tqdm import tqdm

from dskd_ds.errors import InputError

NUM_EXAMPLES = 3
"""Malformed lines that are named; the others are only counted."""
BAR_BYTES = 32 << 20
"""Smaller files are read before a bar could be read."""


class Damage:
    """Lines read, and those that made no sense."""

    def __init__(self) -> None:
        self.num_lines = 0
        self.num_malformed = 0
        self.examples: list[str] = []

    def malformed(self, path: Path, number: int, reason: str) -> None:
        """Count line `number` (from 1) of a file."""
        self.num_malformed += 1
        if len(self.examples) < NUM_EXAMPLES:
            self.examples.append(f"{path}, line {number}: {reason}")


def read_lines(path: Path, damage: Damage, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """(number from 1, text without its end) of every line that decodes. A `.gz` file is unpacked on the way.

    Raises InputError if the file cannot be opened.
    """
    try:
        raw = path.open("rb")
    except OSError as error:
        raise InputError(
            f"{path}: it cannot be read: {error.strerror}.\n"
            "  [[senses.lexicons]] path, or [senses] morpholex, must name a file that you may read."
        ) from None
    size = path.stat().st_size
    with (
        raw,
        tqdm(
            total=size,
            desc=f"reading {path.name}",
            unit="B",
            unit_scale=True,
            disable=size < BAR_BYTES,
        ) as bar,
    ):
        for number, line in _numbered(raw, path, damage):
            damage.num_lines += 1
            if number % 1024 == 0:
                bar.update(raw.tell() - bar.n)
            try:
                text = line.decode(encoding)
            except UnicodeDecodeError as error:
                damage.malformed(path, number, f"this is not {encoding} (byte {error.start + 1})")
                continue
            yield number, text.rstrip("\r\n")
        bar.update(raw.tell() - bar.n)


def _numbered(raw: IO[bytes], path: Path, damage: Damage) -> Iterator[tuple[int, bytes]]:
    lines = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
    number = 0
    try:
        for line in lines:
            number += 1
            yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        damage.num_lines += 1
        damage.malformed(path, number + 1, f"the compressed file ends or breaks here ({error})")

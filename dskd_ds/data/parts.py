"""A file that several ranks write together, batch by batch; a killed job continues it.

Each rank appends to its part file, one line per batch, so a batch is written whole or not at all.
Every part begins with a digest of what the output depends on. At the end the parts are joined in
the order of their samples.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from dskd_ds.errors import InputError
from dskd_ds.files.atomic import atomic_file

Rows = list[tuple[int, dict[str, Any]]]
"""(sample, row) pairs."""


class Parts:
    """The parts of an output file. As a context manager it lets this rank write its own part."""

    def __init__(self, output: Path, made_of: Any, rank: int) -> None:
        """made_of: what the output depends on, as JSON.

        Raises InputError if parts exist that were made of something else.
        """
        self._output, self._own_path = output, output.with_name(f"{output.name}.part-{rank}")
        self._digest = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
        self._own_bytes = 0  # complete lines of the own part; `_read` below sets it
        self._file: IO[bytes] | None = None
        self.done: set[int] = {number for path in self._paths() for number, _ in self._read(path)}
        """Numbers of the batches that earlier calls wrote."""

    def __enter__(self) -> Parts:
        """Open this rank's part; an incomplete last line is dropped."""
        self._output.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._own_path.open("r+b" if self._own_path.exists() else "w+b")
        self._file.truncate(self._own_bytes)
        self._file.seek(self._own_bytes)
        if not self._own_bytes:
            self._append({"made_of": self._digest})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close this rank's part."""
        assert self._file is not None
        self._file.close()

    def write(self, number: int, rows: Rows) -> None:
        """Add a batch and sync it to disk."""
        self._append({"batch": number, "rows": rows})

    def join(self) -> int:
        """Join the parts to the output file, in the order of samples, and delete them.

        One rank calls it after all ranks have closed their parts. Returns the number of rows.
        """
        batches = {number: rows for path in self._paths() for number, rows in self._read(path)}
        pairs = itertools.chain.from_iterable(batches.values())
        rows = sorted(pairs, key=lambda pair: pair[0])
        # The parts are deleted afterwards, so the output must be on disk first.
        with (
            atomic_file(self._output, sync=True) as partial,
            partial.open("w", encoding="utf-8") as file,
        ):
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for _, row in rows)
        for path in self._paths():
            path.unlink()
        return len(rows)

    def _append(self, content: dict[str, Any]) -> None:
        assert self._file is not None, "open the part first"
        self._file.write(json.dumps(content, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _paths(self) -> list[Path]:
        return sorted(self._output.parent.glob(f"{self._output.name}.part-*"))

    def _read(self, path: Path) -> list[tuple[int, Rows]]:
        """Return the complete batches of a part. Raises InputError if it is of another job."""
        whole, newline, _ = path.read_bytes().rpartition(b"\n")
        if not newline:
            return []
        header, *lines = [json.loads(line) for line in whole.split(b"\n")]
        if header.get("made_of") != self._digest:
            raise InputError(
                f"{path}: this was written with other settings, another teacher or other"
                " conversations.\n"
                f"  delete {self._output.name}.part-*, or give another --output."
            )
        if path == self._own_path:
            self._own_bytes = len(whole) + 1
        return [(line["batch"], [(sample, row) for sample, row in line["rows"]]) for line in lines]

"""One checkpoint while it is written: by this rank's training thread, or by a thread beside it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed.comm as dist

from dskd_ds.errors import SaveError
from dskd_ds.files.atomic import write_json
from dskd_ds.files.manifest import FileEntry, describe_file, store_manifest
from dskd_ds.student.checkpoint.files import all_gather_entries, file_prefix
from dskd_ds.student.checkpoint.folders import remove
from dskd_ds.student.checkpoint.slice_files import StoredSlice, write_slices
from dskd_ds.student.checkpoint.writes import Writes
from dskd_ds.student.run_state import State


@dataclass(frozen=True)
class RankContent:
    """What one rank writes into a checkpoint."""

    slices: Iterable[StoredSlice]
    states: dict[str, State]


class Saving:
    """A checkpoint that the ranks write together. It is complete when `complete` returns."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        """Make an empty folder. A collective call.

        facts: for the manifest. Raises SaveError on all ranks if the folder cannot be made.
        """
        self._folder, self._facts = folder, facts
        self._writes = Writes(folder)
        self._own_files: dict[str, FileEntry] = {}
        self._thread: threading.Thread | None = None
        self._rank: int = dist.get_rank()
        if self._rank == 0:
            with self._writes.attempt():
                remove(folder)  # what an interrupted save left
                folder.mkdir(parents=True)
        self._writes.raise_on_every_rank()

    def write(self, content: RankContent) -> None:
        """Write this rank's files and flush them to disk. An error is kept for `complete`."""
        prefix = file_prefix(self._rank)
        with self._writes.attempt():
            state_file = self._folder / f"{prefix}.json"
            write_json(state_file, content.states)
            paths = [*write_slices(self._folder, prefix, content.slices), state_file]
            self._own_files = {path.name: describe_file(path) for path in paths}

    def write_in_background(self, content: RankContent) -> None:
        """Start to write this rank's files. The content must not change meanwhile."""
        # A daemon: if the run ends by an error that the ranks cannot agree on, this checkpoint
        # stays without a manifest, and nothing need wait for it.
        self._thread = threading.Thread(
            target=self.write, args=[content], name="checkpoint", daemon=True
        )
        self._thread.start()

    @property
    def is_in_background(self) -> bool:
        """Whether a thread writes this rank's files."""
        return self._thread is not None

    @property
    def is_written(self) -> bool:
        """Whether this rank's files are written, or cannot be."""
        return self._thread is None or not self._thread.is_alive()

    def complete(self) -> None:
        """Wait for all ranks' files and write the manifest. A collective call.

        Raises SaveError on all ranks if one of them could not write; the folder is then deleted.
        """
        if self._thread:
            self._thread.join()
        try:
            self._writes.raise_on_every_rank()
            files = all_gather_entries(self._own_files)
            if self._rank == 0:
                with self._writes.attempt():
                    store_manifest(self._folder, self._facts, files)
            self._writes.raise_on_every_rank()
        except SaveError:
            if self._rank == 0:  # what was written would keep a full disk full
                shutil.rmtree(self._folder, ignore_errors=True)
            raise

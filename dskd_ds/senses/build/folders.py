"""The work folders of a build, and a lock against two launches that build the same dictionary."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from dskd_ds.errors import InputError
from dskd_ds.runtime.mpi import Communicator
from dskd_ds.senses.dictionary.facts import DictionaryKey
from dskd_ds.senses.dictionary.identity import collection_digests, digest_of
from dskd_ds.spec import RunSpec


@dataclass(frozen=True)
class WorkFolders:
    """Where a build keeps its intermediate results."""

    work: Path
    collections: list[Path]
    """One per text."""
    parts: Path
    """Of the clusters that were made from all collections."""


def work_folders(spec: RunSpec, key: DictionaryKey) -> WorkFolders:
    """Return the folders of a dictionary's collections, and that of the parts made from them."""
    work = Path(spec.senses.collection_dir or f"{Path(spec.senses.dictionary)}.work")
    collections = [work / digest for digest in collection_digests(key)]
    return WorkFolders(work, collections, collections[0] / f"parts-{digest_of(key)}")


def forget_work(spec: RunSpec, key: DictionaryKey) -> None:
    """Delete a dictionary's work folders. A collection in `collection_dir` stays, without parts."""
    folders = work_folders(spec, key)
    is_kept = spec.senses.collection_dir is not None
    shutil.rmtree(folders.parts if is_kept else folders.work, ignore_errors=True)


class RankZeroLock:
    """A lock on what `[senses] key` names, held by rank 0 for all ranks of its launch."""

    def __init__(self, key: str, folder: str, comm: Communicator, name: str = "") -> None:
        """Create the lock.

        name: lock only this subfolder, so that others can be built at the same time.
        """
        self._key, self._folder, self._comm = key, folder, comm
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{path}.lock", timeout=0)

    def __enter__(self) -> None:
        """Acquire the lock; all ranks wait for it. Raises InputError if another launch has it."""
        if self._comm.rank == 0:
            try:
                self._lock.acquire()
            except Timeout:
                raise InputError(
                    f'[senses] {self._key} = "{self._folder}",'
                    " but another process is building it.\n"
                    "  wait for it, or name another folder."
                ) from None
        self._comm.barrier()

    def __exit__(self, *_: object) -> None:
        """Release the lock."""
        self._lock.release()

"""The work folders of a build, and a lock against two launches that build the same dictionary."""

from __future__ import annotations

import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from dskd_ds.errors import InputError
from dskd_ds.runtime.mpi import Communicator
from dskd_ds.senses.dictionary.facts import DictionaryKey
from dskd_ds.senses.dictionary.identity import collection_digest, digest_of
from dskd_ds.spec import RunSpec


def work_folders(spec: RunSpec, key: DictionaryKey) -> tuple[Path, Path]:
    """Return the folder of a dictionary's collection, and that of the parts made from it."""
    work = Path(spec.senses.collection_dir or f"{Path(spec.senses.dictionary)}.work")
    collection = work / collection_digest(key)
    return collection, collection / f"parts-{digest_of(key)}"


def forget_work(spec: RunSpec, key: DictionaryKey) -> None:
    """Delete a dictionary's work folders. A collection in `collection_dir` stays, without parts."""
    collection, parts = work_folders(spec, key)
    is_kept = spec.senses.collection_dir is not None
    shutil.rmtree(parts if is_kept else collection.parent, ignore_errors=True)


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

"""Copies the dictionary and its index to node-local storage, once per node: `[senses] local_dir`.

A run that reads the local copy is not affected by changes to the shared files and puts no load on
the shared file system. The first process of a node that needs the copy makes it under a file lock;
the others wait for it. Copy and lock are in a folder of mode 0700, because local_dir may be open to
all users of the node (/dev/shm, /tmp). To copy ahead of a job, on every node of the allocation:

    mpirun python -m dskd_ds.commands.replicate_senses --spec FILE.toml
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from dskd_ds.errors import InputError
from dskd_ds.files.atomic import atomic_folder
from dskd_ds.files.manifest import CHECKED_FILE, MANIFEST_FILE, FileEntry, parse_manifest
from dskd_ds.files.private import check_private, private_folder
from dskd_ds.senses.index.graph import INDEX_FOLDER
from dskd_ds.senses.index.old_copies import note_use, remove_old_copies
from dskd_ds.spec import RunSpec

PIECE_BYTES = 8 << 20
"""Bytes that are copied at a time. A smaller dictionary is copied without a progress bar."""
SLOWEST_BYTES_PER_SECOND = 20e6
"""A copy that is slower than this, after GRACE_SECONDS, counts as stuck."""
GRACE_SECONDS = 60.0


@dataclass(frozen=True)
class Contents:
    """What a dictionary's folder holds; paths are relative to the folder."""

    manifests: dict[str, bytes]
    """Content of each manifest, read once, so that a concurrent build cannot change it."""
    files: dict[str, FileEntry]
    """All files that the manifests list, with their `bytes` and `sha256`."""

    @property
    def num_bytes(self) -> int:
        """Size of all files without the manifests."""
        return sum(int(entry["bytes"]) for entry in self.files.values())

    def digest(self) -> str:
        """Return the SHA-256 of all manifests."""
        return hashlib.sha256(b"".join(self.manifests.values())).hexdigest()


class Progress(Protocol):
    """A progress bar."""

    def update(self, n: float | None = 1, /) -> object:
        """Add n to the progress."""


def local_copy(source: Path, local_dir: Path) -> tuple[Path, int]:
    """Return the folder of a dictionary's copy in local_dir, and the number of bytes copied now.

    This process counts as a user of the copy until it ends. Copies that nobody uses are removed
    when a new one is made (old_copies.py).

    The copy holds the index too. It is named by the digest of the manifests, so a dictionary that
    was rebuilt is copied again. If another process is copying, this one waits. Raises InputError if
    there is no dictionary, its files differ from their manifest, there is no room or no permission,
    another process does not finish its copy in time, or another user made or could change the copy.
    """
    _check_paths(source, local_dir)
    contents = _contents(source)
    target = _folder_of_user(local_dir) / f"senses-{contents.digest()[:16]}"
    seconds = GRACE_SECONDS + contents.num_bytes / SLOWEST_BYTES_PER_SECOND
    try:
        local_dir.mkdir(parents=True, exist_ok=True)
        private_folder(target.parent)
        with FileLock(f"{target}.lock", timeout=seconds):
            # Checked under the lock: the process that this one waited for may have made the copy.
            note_use(target)
            if _is_intact(target, contents):
                return target, 0
            shutil.rmtree(target, ignore_errors=True)
            # Before the copy, which may need their room.
            remove_old_copies(target.parent, kept=target)
            _check_room(local_dir, contents.num_bytes)
            _copy(source, target, contents)
    except Timeout:
        raise InputError(
            f"{target}: another process on this node has not finished this copy "
            f"within {seconds:.0f} s.\n"
            f"  end that process, or delete {target}.lock if there is no such process."
        ) from None
    except OSError as error:
        raise InputError(
            f'[senses] local_dir = "{local_dir}", but copying {source} to it failed: '
            f"{error.strerror}.\n"
            "  set local_dir to a folder on this node that you may write to, or leave it out."
        ) from None
    return target, contents.num_bytes


def _folder_of_user(local_dir: Path) -> Path:
    """Return the folder in local_dir that holds this user's copies and their locks."""
    return local_dir / f"dskd-{os.getuid()}"


def _check_paths(source: Path, local_dir: Path) -> None:
    """Raise InputError if source does not exist or local_dir holds a variable that is not set."""
    if not source.is_dir():
        raise InputError(
            f'[senses] dictionary = "{source}", but there is no such folder.\n'
            "  build it: dskd senses build SPEC.toml"
        )
    if "$" in str(local_dir):
        raise InputError(
            f'[senses] local_dir = "{local_dir}", but this variable is not set on this node.\n'
            "  set it where the ranks are started, or give a path."
        )


def _contents(source: Path) -> Contents:
    """Read the manifests of the dictionary and, if it has one, of its index."""
    folders = [Path()]
    if (source / INDEX_FOLDER / MANIFEST_FILE).is_file():
        folders.append(Path(INDEX_FOLDER))
    manifests: dict[str, bytes] = {}
    files: dict[str, FileEntry] = {}
    for folder in folders:
        _, entries = parse_manifest(source / folder)
        files |= {str(folder / name): entry for name, entry in entries.items()}
        manifests[str(folder / MANIFEST_FILE)] = (source / folder / MANIFEST_FILE).read_bytes()
    return Contents(manifests, files)


def _check_room(local_dir: Path, needed: int) -> None:
    """Raise InputError if local_dir has less than `needed` bytes free."""
    free = shutil.disk_usage(local_dir).free
    if free >= needed:
        return
    copies = _folder_of_user(local_dir).glob("senses-*")
    old = sorted(str(path.relative_to(local_dir)) for path in copies if path.is_dir())
    delete = f", delete copies that no run uses ({', '.join(old)})" if old else ""
    raise InputError(
        f'[senses] local_dir = "{local_dir}", but the dictionary takes {needed / 1e9:.2f} GB '
        f"and only {free / 1e9:.2f} GB are free.\n"
        f"  set local_dir to a larger folder{delete}, or leave local_dir out."
    )


def _copy(source: Path, target: Path, contents: Contents) -> None:
    """Copy file by file and compare digests; `target` appears only when all files are complete.

    Raises InputError if a file differs from its manifest.
    """
    progress = tqdm(
        total=contents.num_bytes,
        desc=f"copying senses to {target.parent}",
        unit="B",
        unit_scale=True,
        disable=contents.num_bytes < PIECE_BYTES,
    )
    with atomic_folder(target) as partial:
        partial.chmod(0o700)
        with progress:
            for name, entry in contents.files.items():
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                digest = _copy_file(source / name, partial / name, progress)
                if digest != entry["sha256"]:
                    raise InputError(
                        f"{source / name}: its content differs from its manifest; "
                        "it was altered, or is being rebuilt.\n"
                        "  wait for the build to end, or build it again: "
                        "dskd senses build SPEC.toml --force"
                    )
        # From memory: the manifests beside the source may be those of a newer build by now.
        for name, content in contents.manifests.items():
            (partial / name).write_bytes(content)
        identities = {
            name: _identity(partial / name) for name in (*contents.files, *contents.manifests)
        }
        (partial / CHECKED_FILE).write_text(json.dumps(identities), encoding="utf-8")


def _copy_file(source: Path, target: Path, progress: Progress) -> str:
    """Copy one file; returns the SHA-256 of what was read."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while piece := reader.read(PIECE_BYTES):
            digest.update(piece)
            writer.write(piece)
            progress.update(len(piece))
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def _identity(path: Path) -> list[int]:
    """Return numbers of which at least one changes when the file's content is changed."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def _is_intact(target: Path, contents: Contents) -> bool:
    """Return whether a copy holds exactly these contents, and no file changed since it was checked.

    Raises InputError if the copy belongs to another user, is open to others, or holds a symbolic
    link.
    """
    if not target.is_symlink() and not target.exists():
        return False
    check_private(target)
    expected = {*contents.files, *contents.manifests}
    if _file_names(target) != expected | {CHECKED_FILE}:
        return False
    try:
        checked: dict[str, list[int]] = json.loads(
            (target / CHECKED_FILE).read_text(encoding="utf-8")
        )
        has_same_manifests = all(
            (target / name).read_bytes() == content for name, content in contents.manifests.items()
        )
    except (OSError, ValueError):
        return False
    found = {name: _identity(target / name) for name in expected}
    return has_same_manifests and checked == found


def _file_names(folder: Path) -> set[str]:
    """Return the paths of all files below a folder, relative to it.

    Raises InputError if there is a symbolic link.
    """
    names: set[str] = set()
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise InputError(
                f"{path}: there is a symbolic link in this copy, which is not followed.\n"
                f"  delete {folder}; it is copied again then."
            )
        if not path.is_dir():
            names.add(path.relative_to(folder).as_posix())
    return names


def replicate(spec: RunSpec) -> None:
    """Copy the dictionary on every node of an mpirun job; rank 0 prints a summary.

    The first rank of each node copies, the others wait. Raises InputError as `local_copy` does, and
    if the spec has no local_dir.
    """
    from mpi4py import MPI

    if spec.senses.local_dir is None:
        raise InputError(
            "[senses] local_dir is not set, so there is no folder to copy to.\n"
            "  set a folder on each node: --set senses.local_dir=/dev/shm"
        )
    world = MPI.COMM_WORLD
    node = world.Split_type(MPI.COMM_TYPE_SHARED)
    counts = np.zeros(3, np.int64)  # nodes that have a copy, nodes that copied now, bytes copied
    if node.rank == 0:
        _, num_bytes = local_copy(Path(spec.senses.dictionary), Path(spec.senses.local_dir))
        counts[:] = 1, num_bytes > 0, num_bytes
    total = np.zeros_like(counts)
    world.Reduce(counts, total, MPI.SUM, root=0)
    if world.rank == 0:
        print(
            f"{spec.senses.local_dir}: "
            f"a copy of {spec.senses.dictionary} is on {total[0]} node(s); "
            f"{total[1]} copied it now, {total[2] / 1e9:.2f} GB in total."
        )

"""Copies of dictionary and index on node-local storage, one a node: `[senses] local_dir`.

A run that reads them there is not disturbed by what happens to the files on the shared file system, and does not load it. The first
process of a node that wants the copy makes it, under a file lock; the others wait and find it. Ahead of a job:

    mpirun python -m dskd_ds.senses.index.replicate --spec FILE.toml      one copy on every node of the allocation
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from dskd_ds.errors import InputError
from dskd_ds.files.atomic import atomic_folder
from dskd_ds.files.manifest import MANIFEST_FILE, FileEntry, parse_manifest
from dskd_ds.senses.index.graph import INDEX_FOLDER
from dskd_ds.spec import RunSpec

CHECKED_FILE = "checked.json"
"""In a copy: sizes, modification times and inodes of its files when their digests had been compared."""
PIECE_BYTES = 8 << 20
SLOWEST_BYTES_A_SECOND = 20e6
"""A copy that is slower than this, after a minute's grace, counts as stuck."""
GRACE_SECONDS = 60.0


def local_copy(source: Path, local_dir: Path) -> tuple[Path, int]:
    """The copy of a dictionary (and its index) in local_dir, made first where it is not there. Returns its folder and the bytes copied.

    It is named by the digest of the manifests, so a dictionary that was built anew is copied anew. Whoever comes while another
    process copies waits for that. Raises InputError: no dictionary, files that differ from their manifest, no room, no permission,
    or a copy that another process does not finish.
    """
    if not source.is_dir():
        raise InputError(
            f'[senses] dictionary = "{source}", but there is no such folder.\n  build it: dskd senses build SPEC.toml'
        )
    if "$" in str(local_dir):
        raise InputError(
            f'[senses] local_dir = "{local_dir}", but this variable is not set on this node.\n'
            "  set it where ranks are started, or give a path."
        )
    manifests, files = _contents(source)
    total = sum(int(entry["bytes"]) for entry in files.values())
    digest = hashlib.sha256(b"".join(manifests.values())).hexdigest()
    target = local_dir / f"dskd-{os.getuid()}-senses-{digest[:16]}"
    seconds = GRACE_SECONDS + total / SLOWEST_BYTES_A_SECOND
    try:
        local_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock", timeout=seconds):
            if _is_whole(target):
                return target, 0
            shutil.rmtree(target, ignore_errors=True)
            _check_room(local_dir, total)
            _copy(source, target, manifests, files, total)
    except Timeout:
        raise InputError(
            f"{target}: another process of this node has not finished this copy for {seconds:.0f} s.\n"
            f"  end it, or delete {target}.lock if there is none."
        ) from None
    except OSError as error:
        raise InputError(
            f'[senses] local_dir = "{local_dir}", but copying {source} there failed: {error.strerror}.\n'
            "  name a folder on this node that you may write to, or leave local_dir out."
        ) from None
    return target, total


def _contents(source: Path) -> tuple[dict[str, bytes], dict[str, FileEntry]]:
    """Manifests as they are now, and all files that they list, by path relative to the dictionary."""
    folders = (
        [Path(), Path(INDEX_FOLDER)]
        if (source / INDEX_FOLDER / MANIFEST_FILE).is_file()
        else [Path()]
    )
    files = {
        str(folder / name): entry
        for folder in folders
        for name, entry in parse_manifest(source / folder)[1].items()
    }
    return {
        str(folder / MANIFEST_FILE): (source / folder / MANIFEST_FILE).read_bytes()
        for folder in folders
    }, files


def _check_room(local_dir: Path, needed: int) -> None:
    free = shutil.disk_usage(local_dir).free
    if free < needed:
        old = sorted(
            path.name for path in local_dir.glob(f"dskd-{os.getuid()}-senses-*") if path.is_dir()
        )
        raise InputError(
            f'[senses] local_dir = "{local_dir}", but the dictionary takes {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB '
            f"are free there.\n  name a larger folder, leave local_dir out"
            + (f", or delete copies that no run uses: {', '.join(old)}." if old else ".")
        )


def _copy(
    source: Path,
    target: Path,
    manifests: dict[str, bytes],
    files: dict[str, FileEntry],
    total: int,
) -> None:
    """Copy file by file, hashing on the way; the folder gets its name when all is there."""
    with atomic_folder(target) as partial:
        with tqdm(
            total=total,
            desc=f"copying senses to {target.parent}",
            unit="B",
            unit_scale=True,
            disable=total < PIECE_BYTES,
        ) as bar:
            for name, entry in files.items():
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                if _copy_file(source / name, partial / name, bar) != entry["sha256"]:
                    raise InputError(
                        f"{source / name}: its content is not what its manifest says; it is altered, or being built anew.\n"
                        "  wait for the build to end, or build it again: dskd senses build SPEC.toml --force"
                    )
        for name, content in manifests.items():
            (partial / name).write_bytes(content)
        (partial / CHECKED_FILE).write_text(
            json.dumps({name: _identity(partial / name) for name in (*files, *manifests)})
        )


def _copy_file(source: Path, target: Path, bar: Any) -> str:
    """Copy; returns the digest of what was read."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while piece := reader.read(PIECE_BYTES):
            digest.update(piece)
            writer.write(piece)
            bar.update(len(piece))
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def _identity(path: Path) -> list[int]:
    """What a file cannot change in without these numbers changing."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def _is_whole(target: Path) -> bool:
    """Whether a copy is there, and none of its files was touched since its digests were compared."""
    try:
        checked: dict[str, list[int]] = json.loads((target / CHECKED_FILE).read_text())
        return all(_identity(target / name) == identity for name, identity in checked.items())
    except (OSError, ValueError):
        return False


def replicate(spec: RunSpec) -> None:
    """Under mpirun: the first rank of each node makes the node's copy; rank 0 says what came of it. Raises InputError."""
    from mpi4py import MPI

    if spec.senses.local_dir is None:
        raise InputError(
            "[senses] local_dir = (not given), so there is nowhere to copy to.\n"
            "  give a folder on each node: --set senses.local_dir=/dev/shm"
        )
    world = MPI.COMM_WORLD
    node = world.Split_type(MPI.COMM_TYPE_SHARED)
    mine = np.zeros(3, np.int64)  # copies, those made now, their bytes
    if node.rank == 0:
        _, num_bytes = local_copy(Path(spec.senses.dictionary), Path(spec.senses.local_dir))
        mine[:] = 1, num_bytes > 0, num_bytes
    total = np.zeros_like(mine)
    world.Reduce(mine, total, MPI.SUM, root=0)
    if world.rank == 0:
        print(
            f"{spec.senses.local_dir}: {spec.senses.dictionary} is there on {total[0]} node(s); "
            f"{total[1]} copied it now, {total[2] / 1e9:.2f} GB in all."
        )

"""How much memory this machine has for a run. Loads no torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

MIB = 1 << 20


@dataclass(frozen=True)
class Capacity:
    """Memory of a node."""

    gpu_bytes: int
    """Memory of one GPU; 0 without one. Ranks then share the node's main memory."""
    num_gpus: int
    host_bytes: int
    """Main memory of a node."""
    source: str
    """What it was taken from, for messages."""
    is_only_node: bool = False
    """Whether all ranks of a launch are on this node. A cluster has further ones."""


def this_machine() -> Capacity:
    """Return the memory of this machine: of its GPUs, and main memory or this job's limit of it."""
    gpus = gpu_memory_bytes()
    host, source = host_memory_bytes()
    if gpus:
        return Capacity(min(gpus), len(gpus), host, "nvidia-smi", is_only_node=True)
    return Capacity(0, 0, host, source, is_only_node=True)


def gpu_memory_bytes() -> list[int]:
    """Return the memory of each NVIDIA GPU that a run started here sees; an empty list without any.

    nvidia-smi lists all GPUs. CUDA_VISIBLE_DEVICES hides some of them from the run.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=memory.total,uuid", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.partition(", ") for line in answer.stdout.splitlines()]
    memory = [int(size) * MIB if size.isdecimal() else 0 for size, _, _ in rows]
    seen = _visible(os.environ.get("CUDA_VISIBLE_DEVICES"), [uuid for _, _, uuid in rows])
    return [memory[gpu] for gpu in seen if memory[gpu]]


def _visible(names: str | None, uuids: list[str]) -> list[int]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES names, by their places in nvidia-smi's list.

    names: indices, or beginnings of UUIDs. Indices are taken to count as nvidia-smi does, which is
    so with CUDA_DEVICE_ORDER=PCI_BUS_ID or where all GPUs are alike.
    """
    if names is None or names.startswith("MIG-"):  # nvidia-smi does not list parts of a GPU
        return list(range(len(uuids)))
    found: list[int] = []
    for name in names.split(","):
        given = name.strip()
        if given.isdecimal():
            matches = [int(given)] if int(given) < len(uuids) else []
        else:
            matches = [gpu for gpu, uuid in enumerate(uuids) if given and uuid.startswith(given)]
        if len(matches) != 1:
            break  # as CUDA does: what follows a name of no GPU is hidden
        found += matches
    return found


def host_memory_bytes(root: Path = Path("/")) -> tuple[int, str]:
    """Return the main memory that this process may use, and what limits it.

    root: holds `proc` and `sys`.
    """
    total = int(psutil.virtual_memory().total)
    limits = [limit for file in _limit_files(root) if (limit := _limit(file)) is not None]
    if limits and min(limits) < total:
        return min(limits), "the memory limit of this job (cgroup)"
    return total, "the main memory of this machine"


def _limit_files(root: Path) -> Iterator[Path]:
    """Yield the files that may limit this process: of its control group and all groups above it.

    A container sees its own group as the top one. Elsewhere a job of SLURM is some groups below.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    groups = {kinds: path for _, kinds, path in (line.split(":", 2) for line in lines)}
    hierarchies = (
        ("", root / "sys/fs/cgroup", "memory.max"),  # version 2
        ("memory", root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"),  # version 1
    )
    for kinds, top, name in hierarchies:
        group = PurePosixPath(groups.get(kinds, "/"))
        for level in (group, *group.parents):
            yield top / level.relative_to("/") / name


def _limit(file: Path) -> int | None:
    """Return the bytes that a file holds; None if there is no such file or no limit in it."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None

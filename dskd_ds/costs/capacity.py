"""How much memory this machine has for a run. Loads no torch."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Files with the memory limit of this control group, of cgroups version 2 and 1."""
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
    """Return the memory of each NVIDIA GPU that nvidia-smi lists; an empty list without any."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    lines = answer.stdout.split()
    return [int(line) * MIB for line in lines if line.isdecimal()]


def host_memory_bytes() -> tuple[int, str]:
    """Return the main memory that this process may use, and what limits it."""
    total = int(psutil.virtual_memory().total)
    for file in CGROUP_LIMITS:
        limit = _limit(Path(file))
        if limit is not None and limit < total:
            return limit, "the memory limit of this job (cgroup)"
    return total, "the main memory of this machine"


def _limit(file: Path) -> int | None:
    """Return the bytes that a file holds; None if there is no such file or no limit in it."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None

"""The memory of this machine is that which a run started here can use."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from dskd_ds.costs.capacity import MIB, gpu_memory_bytes, host_memory_bytes, this_machine

LISTED = "4096, GPU-0aa1\\n81920, GPU-1bb2\\n81920, GPU-1cc3\\n[N/A], GPU-2dd4\\n40960, GPU-3ee5\\n"
"""A display, two large GPUs, one that shares the main memory, and one of 40 GB."""


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in nvidia-smi's place, as this machine has no GPU."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{LISTED}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("nvidia_smi")
@pytest.mark.parametrize(
    ("visible", "gibibytes"),
    [
        (None, [4, 80, 80, 40]),
        ("1,2", [80, 80]),
        ("4, 1", [40, 80]),
        ("GPU-1c,GPU-3ee5", [80, 40]),
        ("GPU-1,1", []),  # the beginning of two
        ("1,9,2", [80]),  # CUDA ignores what follows an unknown one
        ("3,4", [40]),
        ("", []),
        ("-1", []),
        ("MIG-5f,MIG-6a", [4, 80, 80, 40]),
    ],
)
def test_hidden_gpus_do_not_count(
    visible: str | None, gibibytes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_memory_bytes() == [size * 1024 * MIB for size in gibibytes]


@pytest.mark.usefixtures("nvidia_smi")
def test_the_smallest_gpu_that_is_seen_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    assert (this_machine().gpu_bytes, this_machine().num_gpus) == (81920 * MIB, 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert this_machine().num_gpus == 0


def made_groups(root: Path, own: str, limits: dict[str, str]) -> None:
    """Write the files of a process's control groups. limits: by paths below sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(own)
    for path, limit in limits.items():
        file = root / "sys/fs/cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(limit + "\n")


SLURM = "system.slice/slurmstepd.scope/job_7"


@pytest.mark.parametrize(
    ("own", "limits"),
    [
        (f"0::/{SLURM}/step_0/user", {f"{SLURM}/memory.max": "1000"}),
        (
            f"0::/{SLURM}/step_0\n",
            {f"{SLURM}/memory.max": "1000", f"{SLURM}/step_0/memory.max": "5000"},
        ),
        (f"0::/{SLURM}\n", {f"{SLURM}/memory.max": "max", "system.slice/memory.max": "1000"}),
        ("0::/\n", {"memory.max": "1000"}),  # in a container
        (
            "9:memory:/slurm/uid_1/job_7\n1:cpu,cpuacct:/\n0::/\n",
            {"memory/slurm/uid_1/job_7/memory.limit_in_bytes": "1000"},
        ),
        ("0::/of/the/host\n", {"memory.max": "1000"}),  # a path that the container does not have
    ],
)
def test_the_limit_of_a_job_is_found(tmp_path: Path, own: str, limits: dict[str, str]) -> None:
    made_groups(tmp_path, own, limits)
    assert host_memory_bytes(tmp_path) == (1000, "the memory limit of this job (cgroup)")


def test_without_a_limit_all_memory_counts(tmp_path: Path) -> None:
    everything = (psutil.virtual_memory().total, "the main memory of this machine")
    assert host_memory_bytes(tmp_path / "nothing") == everything
    other_job = {"system.slice/slurmstepd.scope/job_8/memory.max": "1000", "memory.max": "max"}
    made_groups(tmp_path, f"0::/{SLURM}\n", other_job)
    assert host_memory_bytes(tmp_path) == everything

"""What the libraries print by themselves, turned down, so that a user's terminal shows what a user should read."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path

QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
"""Set unless the user has set them."""

CPU_ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_ARENA_MAX": "1",
}
"""glibc otherwise maps every large tensor anew and the kernel clears its pages: a ZeRO-3 step on two CPU ranks took about 1.3
times as long without the first two (medians of steps 2 to 7 in two successive runs, not interleaved: 9.2 s and 7.3 s). In one arena,
what one thread has freed serves the others: a student's peak was 3.92 GB instead of 4.09 (one run each)."""


CPU_THREADS = {"OMP_WAIT_POLICY": "passive"}
"""Idle threads otherwise spin on cores that other ranks need: a student and a teacher with two threads each on two cores trained 110
tokens/s with this and 86 to 92 without (two runs each, not interleaved)."""


def quiet_libraries() -> None:
    """Call before transformers, datasets and deepspeed are imported."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not any(Path("/dev").glob("nvidia[0-9]*")) and not any(
        Path(name).exists() for name in ("/dev/kfd", "/dev/dxg")
    ):
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns that it found no GPU
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)


def quiet_progress() -> None:
    """transformers' own bars, which no variable turns off."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def child_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The environment for ranks that we start: this one, settings for a CPU, and leave for mpirun to run as root."""
    extra = CPU_ALLOCATOR | CPU_THREADS if os.environ.get("DS_ACCELERATOR") == "cpu" else {}
    if os.geteuid() == 0:
        extra |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return extra | dict(env)

"""The console of our processes: quiet libraries, output that may fail; settings for CPU ranks."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO, cast

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
"""Keep freed memory in the heap, and in a single arena.

By default glibc maps every large tensor anew and the kernel clears its pages. A ZeRO-3 step on two
CPU ranks then took about 1.3 times as long as with the first two settings (medians of steps 2 to 7
in two successive runs, not interleaved: 9.2 s and 7.3 s). With one arena a thread can reuse what
another thread has freed: a student's peak was 3.92 GB instead of 4.09 GB (one run each).
"""

CPU_THREADS = {"OMP_WAIT_POLICY": "passive"}
"""Let idle threads sleep; by default they spin on cores that other ranks need.

A student and a teacher with two threads each on two cores trained 110 tokens/s with this setting,
and 86 to 92 tokens/s without it (two runs each, not interleaved).
"""

GPU_DEVICE_FILES = ("nvidia[0-9]*", "kfd", "dxg")
"""In /dev, on a machine with a GPU: NVIDIA's, AMD's, and either of them under WSL."""


def quiet_libraries() -> None:
    """Silence the libraries' own output. Call before importing transformers or deepspeed."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    has_gpu = any(any(Path("/dev").glob(pattern)) for pattern in GPU_DEVICE_FILES)
    if not has_gpu:
        # DeepSpeed otherwise warns that it found no GPU.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)


class LenientStream:
    """An output stream that drops what cannot be written: on a full disk, or into a closed pipe.

    A progress bar or a warning must not end a rank: the others would wait for it in the next
    collective call.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write if that is possible."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush if that is possible."""
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def outlive_console() -> None:
    """Let this process go on if its output cannot be written. Called by each rank as it starts."""
    sys.stdout = cast(TextIO, LenientStream(sys.stdout))
    sys.stderr = cast(TextIO, LenientStream(sys.stderr))


def quiet_progress() -> None:
    """Switch off transformers' progress bars, for which there is no environment variable."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def child_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return `env` with the settings that the ranks we start need.

    These are the CPU settings above, if this process runs on a CPU, and permission for mpirun to
    run as root. Values in `env` win.
    """
    extra: dict[str, str] = {}
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        extra |= CPU_ALLOCATOR | CPU_THREADS
    if os.geteuid() == 0:
        extra |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return extra | dict(env)

"""Measures the workspace of a piece of work: its peak memory beyond its inputs and gradients.

The peak is the kernel's record of the process's resident memory. The work runs in a new process, so
that it cannot reuse memory that was freed earlier. All memory that the process touched counts, also
the matrix library's. Linux only: writing to `/proc/self/clear_refs` resets the peak.
"""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dskd_ds.runtime.devices import give_back_memory


@dataclass(frozen=True)
class Work:
    """Work that `workspace_bytes` measures; an importable function makes it in the new process."""

    warm_up: Callable[[], object]
    """Does the same with little input, to load libraries and start thread pools."""
    run: Callable[[], object]
    """Does the work."""
    gradients: Callable[[], int]
    """Returns the bytes of gradients that `run` left behind; they do not count as workspace."""


def workspace_bytes(make: Callable[..., Work], *arguments: Any) -> int:
    """Return the peak memory of `make(*arguments).run()` beyond inputs and gradients."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_measure, args=(sender, torch.get_num_threads(), make, arguments)
    )
    process.start()
    # With this copy closed, `recv` raises EOFError if the process ends without a result.
    sender.close()
    try:
        return int(receiver.recv())
    finally:
        process.join()


def _measure(
    sender: Any, num_threads: int, make: Callable[..., Work], arguments: tuple[Any, ...]
) -> None:
    """Run in the new process: measure the work and send the bytes to the parent."""
    torch.set_num_threads(num_threads)
    work = make(*arguments)
    work.warm_up()
    # Freed memory that the allocator still holds would be reused, and the work's peak look smaller.
    gc.collect()
    give_back_memory()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # sets VmHWM to VmRSS
    before = _status_bytes("VmRSS")
    work.run()
    sender.send(_status_bytes("VmHWM") - before - work.gradients())


def _status_bytes(field: str) -> int:
    """Return a size from /proc/self/status, where it is given in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    line = next(line for line in lines if line.startswith(field + ":"))
    return int(line.split()[1]) << 10

"""The largest memory that this process has used, on the host and on its device."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path


def peak_host_bytes() -> int:
    """Return the largest resident memory of this process since it started, in bytes."""
    # Linux gives kilobytes (getrusage(2)).
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_bytes() -> int:
    """Return the resident memory of this process now, in bytes; 0 where there is no /proc."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]
    except OSError:
        return 0
    return int(pages) * resource.getpagesize()


@dataclass(frozen=True)
class MemoryBefore:
    """The host's memory of this process before it made its engine, in bytes."""

    resident: int = 0
    peak: int = 0
    """The largest until then: of a teacher that measured the layers, or of a repair."""

    def added(self, peak: int) -> int:
        """Return how much was added up to a later peak; 0 if that cannot be known.

        peak: the largest memory of the process. While it is that from before, nobody knows what the
        engine takes below it.
        """
        return peak - self.resident if peak > self.peak else 0


def memory_before() -> MemoryBefore:
    """Return the host's memory now, and let the peak of the GPU begin here."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    return MemoryBefore(resident_bytes(), peak_host_bytes())


def peak_device_bytes() -> int:
    """Return the largest memory that torch has allocated on this process's GPU; 0 without one.

    Counted since `memory_before` was called, if it was.
    """
    import torch

    if not torch.cuda.is_available():
        return 0
    return int(torch.cuda.max_memory_allocated())

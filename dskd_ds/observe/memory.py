"""The largest memory that this process has used, on the host and on its device."""

from __future__ import annotations

import resource
from pathlib import Path


def peak_host_bytes() -> int:
    """Return the largest resident memory of this process since it started, in bytes."""
    # Linux gives kilobytes (getrusage(2)).
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_bytes() -> int:
    """Return the resident memory of this process now, in bytes; 0 where there is no /proc."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * resource.getpagesize()


def peak_device_bytes() -> int:
    """Return the largest memory that torch has allocated on this process's GPU; 0 without one."""
    import torch

    if not torch.cuda.is_available():
        return 0
    return int(torch.cuda.max_memory_allocated())

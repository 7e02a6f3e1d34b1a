"""What a piece of work needs beyond what it is given: the peak of the process's resident memory, as the kernel saw it.

Work runs in a fresh process, so that nothing freed earlier is reused unseen. Everything counts that the process touched, the work
space of the matrix library too. Linux only: `/proc/self/clear_refs` sets the peak back.
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
    """What `workspace_bytes` runs. Made in the fresh process, by a function that can be imported."""

    warm_up: Callable[[], object]
    """The same on little input: loads libraries, makes thread pools."""
    run: Callable[[], object]
    gradients: Callable[[], int]
    """Bytes of gradients that `run` left behind; they are not work space."""


def workspace_bytes(make: Callable[..., Work], *arguments: Any) -> int:
    """Peak memory of `make(*arguments).run()` beyond what is there before it, less the gradients it makes."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_measure, args=(sender, torch.get_num_threads(), make, arguments)
    )
    process.start()
    sender.close()
    try:
        return int(receiver.recv())
    finally:
        process.join()


def _measure(
    sender: Any, num_threads: int, make: Callable[..., Work], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(num_threads)
    work = make(*arguments)
    work.warm_up()
    gc.collect()
    give_back_memory()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_bytes("VmRSS")
    work.run()
    sender.send(_status_bytes("VmHWM") - before - work.gradients())


def _status_bytes(field: str) -> int:
    """A size from /proc/self/status."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(field + ":")
    )
    return int(line.split()[1]) << 10

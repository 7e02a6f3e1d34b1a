"""The students' torch world, opened by DeepSpeed, without what DeepSpeed would leave behind on a CPU."""

from __future__ import annotations

import os
from pathlib import Path

import deepspeed
import torch

SHARED_MEMORY = Path("/dev/shm")


def open_world() -> None:
    """Join the world that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT describe.

    DeepSpeed's reduction for CPU ranks of one node keeps a buffer of 69 MB a rank in shared memory, and never removes its name: every
    run would take that much from the machine until it restarts. Once all ranks have mapped all buffers the names are of no more use,
    and without them the memory goes when the last rank does, however it ends.
    """
    deepspeed.init_distributed()
    if not torch.accelerator.is_available():
        deepspeed.comm.barrier()  # DeepSpeed has waited for the others' buffers, so from here on every rank has all of them
        (SHARED_MEMORY / buffer_name(deepspeed.comm.get_rank())).unlink(missing_ok=True)


def buffer_name(rank: int) -> str:
    """As DeepSpeed's csrc/cpu/comm/shm.cpp makes it, with its defaults for want of an address."""
    address, port = (os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    return f"deepspeed_allreduce_buffer_{os.getuid()}_{address}_{port}_{rank}"

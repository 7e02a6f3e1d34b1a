"""Opens the students' torch.distributed world through DeepSpeed, and frees its shared memory."""

from __future__ import annotations

import os
from pathlib import Path

import deepspeed
import torch

SHARED_MEMORY = Path("/dev/shm")


def open_world() -> None:
    """Join the world that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT describe. Collective.

    DeepSpeed's all-reduce for CPU ranks of one node keeps a buffer of 69 MB per rank in shared
    memory and never removes its name: every run would take that memory until the machine restarts.
    The names are not needed once all ranks have mapped all buffers. Without names the kernel frees
    the memory when the last rank ends, however it ends.
    Source: docs/deepspeed.md, "Communication on CPUs".
    """
    deepspeed.init_distributed()
    if not torch.accelerator.is_available():
        # Each rank has mapped the others' buffers before it enters this barrier.
        deepspeed.comm.barrier()
        (SHARED_MEMORY / buffer_name(deepspeed.comm.get_rank())).unlink(missing_ok=True)


def buffer_name(rank: int) -> str:
    """Return the name that DeepSpeed's csrc/cpu/comm/shm.cpp gives to a rank's buffer.

    As in that file, a missing address or port counts as empty.
    """
    address, port = (os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    return f"deepspeed_allreduce_buffer_{os.getuid()}_{address}_{port}_{rank}"

"""Opens the students' torch.distributed world through DeepSpeed; removes what crashes leave."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import deepspeed
import ninja
import torch
from torch.utils import cpp_extension

SHARED_MEMORY = Path("/dev/shm")
COMPILE_SECONDS, LOAD_SECONDS = 600.0, 100.0
"""How old a lock on an op must be before it can count as stale: compiling takes about a minute,
loading what is compiled seconds. Its owner may be on another machine, if the folder is shared."""
LOOK_SECONDS = 5.0
COLLECTIVE_TIMEOUT = timedelta(days=1)
"""How long a rank waits in a collective call. It limits no hang: the watchdog does
(student/watchdog.py). DeepSpeed's default of 10 minutes would end ranks that wait for a long write
of rank 0, or for a teacher within `[link] teacher_wait_seconds`."""


def open_world() -> None:
    """Join the world that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT describe. Collective.

    DeepSpeed's all-reduce for CPU ranks of one node keeps a buffer of 69 MB per rank in shared
    memory and never removes its name: every run would take that memory until the machine restarts.
    The names are not needed once all ranks have mapped all buffers. Without names the kernel frees
    the memory when the last rank ends, however it ends.
    Source: docs/deepspeed.md, "Communication on CPUs".
    """
    use_own_ninja()
    use_own_build_folder()
    with _without_stale_locks(build_root()):
        deepspeed.init_distributed(timeout=COLLECTIVE_TIMEOUT)
    if not torch.accelerator.is_available():
        # Each rank has mapped the others' buffers before it enters this barrier.
        deepspeed.comm.barrier()
        (SHARED_MEMORY / buffer_name(deepspeed.comm.get_rank())).unlink(missing_ok=True)


def use_own_ninja() -> None:
    """Put the `ninja` of this environment first on PATH.

    Two versions of ninja hash a command differently. With another one on PATH (that of the system,
    where the environment is not activated) torch would compile DeepSpeed's op again each time they
    alternate: a minute per launch.
    """
    path = os.environ.get("PATH", os.defpath)
    if path.split(os.pathsep)[0] != ninja.BIN_DIR:
        os.environ["PATH"] = os.pathsep.join([ninja.BIN_DIR, path])


def use_own_build_folder() -> None:
    """Let torch compile DeepSpeed's op into `build_root`.

    By default all environments of a user share one folder. The commands of the compiler name the
    environment, so two that alternate (a clone beside the first installation) would compile the op
    again in every launch: a minute each, and more than four on a busy machine.
    """
    os.environ["TORCH_EXTENSIONS_DIR"] = str(build_root())


def build_root() -> Path:
    """Return the folder in which torch keeps the ops that DeepSpeed lets it compile.

    It is TORCH_EXTENSIONS_DIR if that is set, else a folder of this environment in torch's cache.
    """
    given = os.environ.get("TORCH_EXTENSIONS_DIR")
    if given:
        return Path(given)
    environment = hashlib.sha256(sys.prefix.encode()).hexdigest()[:12]
    return Path(cpp_extension.get_default_build_root()) / f"dskd-{environment}"


@contextmanager
def _without_stale_locks(root: Path) -> Iterator[None]:
    """Remove stale locks every few seconds within the block, in which this process may wait."""
    end = threading.Event()

    def remove_until_end() -> None:
        while not end.is_set():
            remove_stale_locks(root)
            end.wait(LOOK_SECONDS)

    thread = threading.Thread(target=remove_until_end, name="stale locks", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def remove_stale_locks(root: Path) -> None:
    """Remove locks whose owner was killed while it loaded an op; print a line for each.

    torch waits for such a lock for ever, without a message (torch 2.13, utils/file_baton.py). So
    one rank that is killed at the wrong moment would block every later run of the user.
    """
    for lock in (*root.glob("*/lock"), *root.glob("*/*/lock")):
        try:
            age_seconds = time.time() - lock.stat().st_mtime
            is_compiled = any(lock.parent.glob("*.so"))
            is_old = age_seconds > (LOAD_SECONDS if is_compiled else COMPILE_SECONDS)
            # On a busy machine even loading can take minutes, and its end fails without the lock.
            if is_old and not _is_open(lock):
                lock.unlink()
                print(
                    f"{lock}: removed, because it is {age_seconds:.0f} s old: the"
                    " process that made it was killed while it loaded a compiled op of DeepSpeed.",
                    file=sys.stderr,
                )
        except OSError:
            continue  # another rank was faster, or it is another user's


def _is_open(path: Path) -> bool:
    """Whether a process of this machine has a file open, as the owner of a lock of torch has."""
    real_path = path.resolve()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if descriptor.readlink() == real_path:
                return True
        except OSError:
            continue  # it was closed, or it is another user's
    return False


def buffer_name(rank: int) -> str:
    """Return the name that DeepSpeed's csrc/cpu/comm/shm.cpp gives to a rank's buffer.

    As in that file, a missing address or port counts as empty.
    """
    address, port = (os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    return f"deepspeed_allreduce_buffer_{os.getuid()}_{address}_{port}_{rank}"

"""The few things that MPI ranks say to each other (what is large goes over the shared work folder), and how they end together."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable

import numpy as np

from dskd_ds.errors import DskdError, ExitCode

RANK_0_SPEAKS_FIRST_SECONDS = 2.0
"""Most errors are alike on all ranks: rank 0 then says so for all, and ends them."""


class Communicator:
    """All ranks of the launch; one rank where there was no launcher."""

    def __init__(self) -> None:
        from mpi4py import MPI

        self._world = MPI.COMM_WORLD
        self.rank, self.size = int(self._world.rank), int(self._world.size)
        if (
            self.size > 1
        ):  # names this rank's device (compute.py); each launcher has another name for it
            node = self._world.Split_type(MPI.COMM_TYPE_SHARED)
            os.environ["LOCAL_RANK"] = str(node.rank)
            node.Free()

    def barrier(self) -> None:
        """Wait for all."""
        self._world.Barrier()

    def from_first(self, flag: bool) -> bool:
        """Rank 0's flag, everywhere (as a typed buffer: mpi4py's lower-case methods pickle)."""
        value = np.array([flag], np.int64)
        self._world.Bcast(value, root=0)
        return bool(value[0])

    def all_alike(self, digest: bytes) -> bool:
        """Whether every rank has the digest (of one length everywhere) that rank 0 has; the same answer on all."""
        first = np.frombuffer(digest, np.uint8).copy()
        self._world.Bcast(first, root=0)
        differ = np.array([first.tobytes() != digest], np.int64)
        total = np.zeros_like(differ)
        self._world.Allreduce(differ, total)
        return not total[0]


def end_together(work: Callable[[], None]) -> int:
    """Do this rank's work and return its exit code. An error on one rank ends all of them: the others would wait for it for ever.

    A DskdError is printed as it is, anything else with its traceback.
    """
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    try:
        work()
        return int(ExitCode.DONE)
    except DskdError as error:
        if world.rank > 0:
            time.sleep(RANK_0_SPEAKS_FIRST_SECONDS)
        print(error, file=sys.stderr, flush=True)
        code = int(error.exit_code)
    except Exception:
        traceback.print_exc()
        code = int(ExitCode.FAILED)
    if world.size > 1:
        world.Abort(code)
    return code

"""Collectives of MPI ranks, and how an error on one rank ends all of them.

Only flags and digests go over MPI; large data goes through the shared work folder.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable

import numpy as np

from dskd_ds.errors import DskdError, ExitCode
from dskd_ds.runtime.reporting import report_error

BARRIER_POLL_SECONDS = 0.005
"""How often a rank that waits looks whether the others have come."""
RANK_0_FIRST_SECONDS = 2.0
"""Delay so that rank 0 reports a shared error once, and ends the other ranks."""


class Communicator:
    """All ranks of the launch; a single rank if there was no launcher.

    Arrays are sent as typed buffers: mpi4py's lower-case methods would pickle.
    """

    def __init__(self) -> None:
        from mpi4py import MPI

        self._world = MPI.COMM_WORLD
        self.rank, self.size = int(self._world.rank), int(self._world.size)
        if self.size > 1:
            # LOCAL_RANK names this rank's device; MPI launchers use other names for it.
            node = self._world.Split_type(MPI.COMM_TYPE_SHARED)
            os.environ["LOCAL_RANK"] = str(node.rank)
            node.Free()

    def barrier(self) -> None:
        """Wait until all ranks have called this; a waiting rank leaves its core to others.

        MPI's own barrier would use the core that another rank needs to get here.
        """
        request = self._world.Ibarrier()
        while not request.Test():
            time.sleep(BARRIER_POLL_SECONDS)

    def broadcast_flag_from_rank_0(self, flag: bool) -> bool:
        """Return rank 0's flag on every rank. Collective."""
        value = np.array([flag], np.int64)
        self._world.Bcast(value, root=0)
        return bool(value[0])

    def all_ranks_equal(self, digest: bytes) -> bool:
        """Return whether all ranks have the same digest; the answer is the same on all. Collective.

        digest: must have the same length on all ranks.
        """
        of_rank_0 = np.frombuffer(digest, np.uint8).copy()
        self._world.Bcast(of_rank_0, root=0)
        differs = np.array([of_rank_0.tobytes() != digest], np.int64)
        num_different = np.zeros_like(differs)
        self._world.Allreduce(differs, num_different)
        return not num_different[0]


def run_or_abort_all_ranks(work: Callable[[], None], spec_file: str | None = None) -> int:
    """Do this rank's work and return its exit code; an error aborts all ranks.

    Without the abort the other ranks would wait for this one forever. A DskdError is printed
    without a traceback, any other error with it. spec_file: see `report_error`.
    """
    # Importing this initialises MPI, so it waits until the arguments have been parsed.
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    try:
        work()
        return int(ExitCode.DONE)
    except DskdError as error:
        code = report_error(error, int(world.rank), RANK_0_FIRST_SECONDS, spec_file)
    except Exception:
        traceback.print_exc()
        code = int(ExitCode.FAILED)
    if world.size > 1:
        world.Abort(code)
    return code

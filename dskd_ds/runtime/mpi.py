"""Collectives of MPI ranks, and how an error on one rank ends all of them.

Only flags and digests go over MPI; large data goes through the shared work folder.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Mapping

import numpy as np

from dskd_ds.errors import DskdError, ExitCode, InputError
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
        # LOCAL_RANK names this rank's device; MPI launchers use other names for it.
        by_srun = local_rank_under_srun(os.environ, self.size)
        if by_srun is not None:
            os.environ["LOCAL_RANK"] = by_srun
        elif self.size > 1:
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


def local_rank_under_srun(env: Mapping[str, str], num_ranks: int) -> str | None:
    """Return the number of a rank on its node if srun started it; None with another launcher.

    With `srun --mpi=pmix` MPI itself may not see which ranks share a node (Open MPI 5.0 with the
    PMIx of SLURM 22.05: each rank is alone), so SLURM's number is used.
    num_ranks: size of MPI's world. Raises InputError if srun has started several tasks and each is
        a world of one rank: all of them would do the whole work and write the same files.
    """
    num_tasks = env.get("SLURM_STEP_NUM_TASKS", "")
    # Ranks of mpirun inherit the variables of the srun that started its daemons.
    if not num_tasks or "OMPI_COMM_WORLD_RANK" in env:
        return None
    if num_ranks == 1 and int(num_tasks) > 1:
        if env.get("SLURM_PROCID") != "0":
            raise InputError("")  # the first task says it for all
        raise InputError(
            f"srun has started {num_tasks} tasks, but MPI does not connect them.\n"
            "  add --mpi=pmix (`srun --mpi=list` shows whether SLURM has it), or start the ranks"
            " with mpirun inside the job."
        )
    return env.get("SLURM_LOCALID", "0")


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

"""The few things that ranks of a build say to each other. What is large goes over the shared work folder instead."""

from __future__ import annotations

import numpy as np


class Communicator:
    """All ranks of the launch; one rank where there was no launcher."""

    def __init__(self) -> None:
        from mpi4py import MPI

        self._world = MPI.COMM_WORLD
        self.rank, self.size = int(self._world.rank), int(self._world.size)

    def barrier(self) -> None:
        """Wait for all."""
        self._world.Barrier()

    def from_first(self, flag: bool) -> bool:
        """Rank 0's flag, everywhere (as a typed buffer: mpi4py's lower-case methods pickle)."""
        value = np.array([flag], np.int64)
        self._world.Bcast(value, root=0)
        return bool(value[0])

    def abort(self, code: int) -> None:
        """End every rank."""
        self._world.Abort(code)

"""Which number a rank has on its node, as SLURM or MPI say it."""

from __future__ import annotations

import pytest

from dskd_ds.errors import InputError
from dskd_ds.runtime.mpi import local_rank_under_srun

STEP = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1", "SLURM_PROCID": "3"}


def test_slurm_names_the_rank_of_a_step() -> None:
    assert local_rank_under_srun(STEP, 4) == "1"
    assert local_rank_under_srun(STEP | {"SLURM_STEP_NUM_TASKS": "1"}, 1) == "1"


def test_mpirun_inside_of_a_job_is_no_step() -> None:
    """A batch script has no step; mpirun's daemons are tasks of a step, which its ranks are not."""
    assert local_rank_under_srun({"SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}, 4) is None
    assert local_rank_under_srun(STEP | {"OMPI_COMM_WORLD_RANK": "2"}, 4) is None
    assert local_rank_under_srun({}, 4) is None


def test_tasks_that_mpi_does_not_connect_are_refused() -> None:
    """Each task is rank 0 of its world. Only the first one says it."""
    message = "started 4 tasks, but MPI does not connect them.\n  add --mpi=pmix"
    with pytest.raises(InputError, match=message):
        local_rank_under_srun(STEP | {"SLURM_PROCID": "0"}, 1)
    with pytest.raises(InputError, match=r"^$"):
        local_rank_under_srun(STEP, 1)

"""The MPI commands under srun: with PMIx as one world, and refused without."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import TinyWorld
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import Runs, log_of

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
RANK = """
import os
from dskd_ds.runtime.mpi import Communicator
comm = Communicator()
assert comm.all_ranks_equal(b"the same")
assert not comm.all_ranks_equal(b"rank %d" % comm.rank)
print("rank", comm.rank, "of", comm.size, "has device", os.environ["LOCAL_RANK"])
"""


def test_srun_with_pmix_gives_each_rank_of_a_node_another_device(cluster: Cluster) -> None:
    tasks = ("--nodes=2", "--ntasks=4", "--ntasks-per-node=2")
    output = cluster.run("srun", "--mpi=pmix", *tasks, sys.executable, "-c", RANK)
    expected = [f"rank {rank} of 4 has device {rank % 2}" for rank in range(4)]
    assert sorted(output.splitlines()) == expected


def test_ranks_that_mpi_does_not_connect_are_refused_once(runs: Runs) -> None:
    command = ["srun", "--mpi=none", "--nodes=2", "--ntasks=2", sys.executable]
    command += ["-m", "dskd_ds.commands.build_senses", "--spec", str(runs.spec_file)]
    ended = subprocess.run(command, env=runs.env, capture_output=True, text=True, timeout=480)
    assert ended.returncode == 2
    assert ended.stderr.count("srun has started 2 tasks, but MPI does not connect them") == 1
    assert "Traceback" not in ended.stderr


def test_text_is_packed_and_the_signal_kept_by_jobs(
    cluster: Cluster, runs: Runs, tiny: TinyWorld
) -> None:
    run_dir, packed, signals = (tiny.folder / name for name in ("packs", "packed", "signals"))
    overrides = (
        f"data.packed={packed}",
        f"teacher.cache_dir={signals}",
        "teacher.source=cache",
        "topology.num_teachers=0",
        "loss.sense_weight=0",
    )
    options = tuple(word for override in overrides for word in ("--set", override))
    argv = ("--what=pack,teach", "--ntasks-per-node=2", *options)
    for job in runs.submit(run_dir, *argv):
        assert cluster.wait_for_end(job) == "COMPLETED", log_of(run_dir)
    argv = ("--set", f"run_dir={run_dir}", *options)
    checked = runs.dskd("train", str(runs.spec_file), "--dry-run", *argv)
    assert checked.returncode == 0, checked.stdout
    assert str(packed) in checked.stdout
    # The dry run of a run from the cache is refused if nothing is kept of its teacher.
    assert f"bytes in {signals}" in checked.stdout

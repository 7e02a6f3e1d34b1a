"""Jobs that cannot run: refused before they are submitted, or ended by one clear message."""

from __future__ import annotations

import pytest

from dskd_ds.commands.status import read_status
from dskd_ds.observe.attempts import read_attempts, record_path
from tests.conftest import TinyWorld
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import Runs, log_of

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
WITHOUT_SENSES = ("--set", "loss.sense_weight=0")
"""No dictionary needs to be built for what does not train."""


def test_what_cannot_run_is_refused_before_it_is_submitted(
    cluster: Cluster, runs: Runs, tiny: TinyWorld
) -> None:
    run_dir = tiny.folder / "refused"
    argv = ("submit", str(runs.spec_file), "--set", f"run_dir={run_dir}", *WITHOUT_SENSES)
    argv = (*argv, "--ntasks-per-node=1")
    nothing_to_pack = runs.dskd(*argv, "--what=pack")
    assert nothing_to_pack.returncode == 2
    assert "[data] packed is not given" in nothing_to_pack.stderr
    wrong_partition = runs.dskd(*argv, "--partition=nix")
    assert wrong_partition.returncode == 2
    assert "SLURM refuses this job: invalid partition specified: nix" in wrong_partition.stderr
    assert "low" in wrong_partition.stderr
    too_many = runs.dskd(*argv, "--gpus-per-node=4", "--chain=2")
    assert too_many.returncode == 2
    assert "Requested node configuration is not available" in too_many.stderr
    assert "gpu:2" in too_many.stderr
    # The first component fits, the second one does not: the whole job is refused.
    second = runs.dskd(*argv, "--het", "--het-sbatch=gpus-per-node=4")
    assert second.returncode == 2
    assert cluster.run("squeue", "-h") == ""
    assert read_status(run_dir).state == "never started"


def test_a_run_directory_that_a_node_does_not_share_gets_one_clear_message(
    cluster: Cluster, runs: Runs
) -> None:
    run_dir = cluster.unshared / "run"
    (job,) = runs.submit(run_dir, *WITHOUT_SENSES)
    assert cluster.wait_for_end(job) == "FAILED"
    assert cluster.job_field(job, "ExitCode") == "2:0"
    output = log_of(run_dir)
    assert output.count("but node node2 does not see what the first node wrote there") == 1
    assert record_path(run_dir, 1).is_file()
    assert [attempt.reason for attempt in read_attempts(run_dir)] == ["wrong_input"]
    status = read_status(run_dir)
    assert (status.state in ("failed", "dead"), status.exit_code) == (True, 2)
    assert status.what_to_do.startswith("correct the input")

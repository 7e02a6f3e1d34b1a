"""Runs on a real SLURM: they end as on one machine, and come back after what a cluster does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dskd_ds.observe.attempts import Attempt, log_dir, read_attempts
from tests.conftest import TinyWorld
from tests.slurm.cluster import NODES, Cluster
from tests.slurm.conftest import Runs, exact_losses, weights

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(1500)]


def attempts_of(run_dir: Path) -> list[Attempt]:
    return read_attempts(run_dir)


def reasons(run_dir: Path) -> list[str | None]:
    return [attempt.reason for attempt in attempts_of(run_dir)]


def status(runs: Runs, run_dir: Path) -> dict[str, object]:
    """Return what `dskd status` says about a run."""
    done = runs.dskd("status", str(run_dir), "--json")
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_job_of_three_nodes_equals_one_machine_although_its_teacher_is_killed(
    cluster: Cluster, runs: Runs, tiny: TinyWorld, one_machine: Path
) -> None:
    run_dir = tiny.folder / "three_nodes"
    (job,) = runs.submit(run_dir)
    runs.wait_for_step(run_dir, 3, job)
    steps = cluster.run("squeue", "-h", "-s", "-o", "%i %j").splitlines()
    teachers = next(line.split()[0] for line in steps if line.endswith(" teachers"))
    cluster.run("scancel", "--signal=KILL", teachers, check=False)
    assert runs.wait_for_end(run_dir, job) == "COMPLETED"
    assert reasons(run_dir) == ["done"]
    assert attempts_of(run_dir)[0].nodes == list(NODES)
    again = log_dir(run_dir, 1) / "teacher-node0-step1-0.log"
    assert "answered" in again.read_text()
    assert exact_losses(run_dir) == exact_losses(one_machine)
    assert weights(run_dir) == weights(one_machine)
    assert status(runs, run_dir)["state"] == "finished"


def test_a_run_goes_on_after_its_teachers_node_and_its_students_node_failed(
    cluster: Cluster, runs: Runs, tiny: TinyWorld, one_machine: Path
) -> None:
    run_dir = tiny.folder / "failed_nodes"
    (job,) = runs.submit(run_dir)
    runs.wait_for_step(run_dir, 3, job)
    cluster.fail_node("node3")
    cluster.start_node("node3")
    # The students get SIGTERM and save; nothing that they have done is lost.
    runs.wait_for_attempt(run_dir, 2, job)
    first = attempts_of(run_dir)[0]
    assert (first.reason, first.exit_code, first.is_requeued) == ("node_lost", 3, True)
    assert first.made_progress
    runs.wait_for_step(run_dir, (first.last_step or 0) + 4, job)
    cluster.fail_node("node2")
    cluster.start_node("node2")
    assert runs.wait_for_end(run_dir, job) == "COMPLETED"
    assert reasons(run_dir) == ["node_lost", "node_lost", "done"]
    assert exact_losses(run_dir) == exact_losses(one_machine)
    assert weights(run_dir) == weights(one_machine)


def test_a_heterogeneous_chain_of_three_equals_one_run(
    cluster: Cluster, runs: Runs, tiny: TinyWorld, one_machine: Path
) -> None:
    """Each job gets the signal that SLURM sends before the time limit."""
    run_dir = tiny.folder / "chain"
    jobs = runs.submit(run_dir, "--chain", "3", "--het")
    assert len(jobs) == 3
    for index, job in enumerate(jobs[:2]):
        done = sum(attempt.last_step or 0 for attempt in attempts_of(run_dir)[-1:])
        runs.wait_for_step(run_dir, done + 3, job)
        cluster.run("scancel", "--batch", "--signal=USR1", job)
        cluster.wait_for_end(job)
        assert reasons(run_dir) == ["time_limit"] * (index + 1)
    assert runs.wait_for_end(run_dir, jobs[2]) == "COMPLETED"
    assert [attempt.job_id for attempt in attempts_of(run_dir)] == jobs
    assert reasons(run_dir) == ["time_limit", "time_limit", "done"]
    assert exact_losses(run_dir) == exact_losses(one_machine)
    assert weights(run_dir) == weights(one_machine)


def test_a_preempted_job_comes_back_and_a_cancelled_one_does_not(
    cluster: Cluster, runs: Runs, tiny: TinyWorld
) -> None:
    run_dir = tiny.folder / "preempted"
    (job,) = runs.submit(run_dir, "--partition=low")
    runs.wait_for_step(run_dir, 3, job)
    cluster.run("sbatch", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=true")
    runs.wait_for_attempt(run_dir, 2, job)
    first = attempts_of(run_dir)[0]
    assert (first.reason, first.exit_code, first.is_requeued) == ("preempted", 3, True)
    assert first.made_progress
    runs.wait_for_step(run_dir, (first.last_step or 0) + 2, job)
    cluster.run("scancel", job)
    assert runs.wait_for_end(run_dir, job) == "CANCELLED"
    second = attempts_of(run_dir)[1]
    assert (second.reason, second.is_requeued) == ("cancelled", False)
    assert second.first_step == first.last_step
    assert second.made_progress
    assert not [process for node in NODES for process in cluster.processes_of(node)]
    assert status(runs, run_dir)["state"] not in ("running", "finished")

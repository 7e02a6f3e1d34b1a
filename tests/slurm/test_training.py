"""Runs on a real SLURM: they end as on one machine, and come back after what a cluster does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dskd_ds.observe.attempts import log_dir, read_attempts
from dskd_ds.observe.run_files import WAITING_FOR_TEACHER
from tests.conftest import TinyWorld
from tests.slurm.cluster import NODES, Cluster
from tests.slurm.conftest import NUM_STEPS, Runs, exact_losses, phases, reasons, status, weights

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(1500)]


def test_a_job_of_three_nodes_equals_one_machine_although_its_teacher_is_killed(
    cluster: Cluster, runs: Runs, tiny: TinyWorld, one_machine: Path
) -> None:
    run_dir = tiny.folder / "three_nodes"
    (job,) = runs.submit(run_dir, "--sbatch=hold")
    queued = status(run_dir)
    assert (queued["state"], queued["command"]) == ("queued", "squeue --me")
    assert job in queued["headline"]
    cluster.run("scontrol", "release", job)
    runs.wait_for_step(run_dir, 3, job)
    running = status(run_dir)
    assert (running["state"], running["job_id"], running["attempt"]) == ("running", job, 1)
    steps = cluster.run("squeue", "-h", "-s", "-o", "%i %j").splitlines()
    teachers = next(line.split()[0] for line in steps if line.endswith(" teachers"))
    cluster.run("scancel", "--signal=KILL", teachers, check=False)
    cluster.wait_until(
        lambda: WAITING_FOR_TEACHER in phases(status(run_dir), "students"),
        "the status says that a student has no teacher",
    )
    without_teacher = status(run_dir)
    assert (without_teacher["state"], len(phases(without_teacher, "students"))) == ("running", 2)
    assert runs.wait_for_end(run_dir, job) == "COMPLETED"
    assert reasons(run_dir) == ["done"]
    assert read_attempts(run_dir)[0].nodes == list(NODES)
    again = log_dir(run_dir, 1) / "teacher-node0-step1-0.log"
    assert "answered" in again.read_text()
    assert exact_losses(run_dir) == exact_losses(one_machine)
    assert weights(run_dir) == weights(one_machine)
    said = json.loads(runs.dskd("status", str(run_dir), "--json").stdout)
    assert (said["state"], said["exit_code"], said["step"]) == ("finished", 0, NUM_STEPS)


def test_a_run_goes_on_after_its_teachers_node_and_its_students_node_failed(
    cluster: Cluster, runs: Runs, tiny: TinyWorld, one_machine: Path
) -> None:
    """Teachers in jobs of their own: only the failure of a students' node ends the attempt."""
    run_dir = tiny.folder / "failed_nodes"
    job, teachers = runs.submit(run_dir, "--teachers-job", "--het-sbatch=exclusive")
    runs.wait_for_step(run_dir, 3, job)
    assert cluster.job_field(f"{teachers}_0", "NodeList") == "node3"
    cluster.fail_node("node3")
    cluster.wait_until(
        lambda: any("students have waited" in problem for problem in status(run_dir)["problems"]),
        "the students wait for a teacher",
    )
    waiting = status(run_dir)
    assert waiting["state"] == "running"
    cluster.start_node("node3")
    # The teachers' job starts again on a node that works, and the students have kept everything.
    runs.wait_for_step(run_dir, waiting["step"] + 4, job)
    assert reasons(run_dir) == [None]
    cluster.fail_node("node2")
    cluster.start_node("node2")
    runs.wait_for_attempt(run_dir, 2, job)
    assert [attempt["reason"] for attempt in status(run_dir)["attempts"]] == ["node_lost", None]
    assert runs.wait_for_end(run_dir, job) == "COMPLETED"
    assert cluster.wait_for_end(f"{teachers}_0") == "COMPLETED"
    assert reasons(run_dir) == ["node_lost", "done"]
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
        done = sum(attempt.last_step or 0 for attempt in read_attempts(run_dir)[-1:])
        runs.wait_for_step(run_dir, done + 3, job)
        cluster.run("scontrol", "hold", jobs[index + 1])
        cluster.run("scancel", "--batch", "--signal=USR1", job)
        cluster.wait_for_end(job)
        assert reasons(run_dir) == ["time_limit"] * (index + 1)
        between = status(run_dir)
        assert (between["state"], between["exit_code"]) == ("queued", 3)
        assert f"job {job} (time_limit" in between["died_of"]
        cluster.run("scontrol", "release", jobs[index + 1])
    assert runs.wait_for_end(run_dir, jobs[2]) == "COMPLETED"
    assert [attempt.job_id for attempt in read_attempts(run_dir)] == jobs
    assert reasons(run_dir) == ["time_limit", "time_limit", "done"]
    assert exact_losses(run_dir) == exact_losses(one_machine)
    assert weights(run_dir) == weights(one_machine)

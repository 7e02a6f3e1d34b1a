"""Runs on a real SLURM: they end as on one machine, and come back after what a cluster does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dskd_ds.commands.status import read_status
from dskd_ds.observe.attempts import Attempt, log_dir, read_attempts
from dskd_ds.observe.run_files import WAITING_FOR_TEACHER
from tests.conftest import TinyWorld, write_model
from tests.slurm.cluster import NODES, Cluster
from tests.slurm.conftest import NUM_STEPS, Runs, exact_losses, weights

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(1500)]


def attempts_of(run_dir: Path) -> list[Attempt]:
    return read_attempts(run_dir)


def reasons(run_dir: Path) -> list[str | None]:
    return [attempt.reason for attempt in attempts_of(run_dir)]


def status(run_dir: Path) -> dict[str, Any]:
    """Return what `dskd status RUN_DIR --json` prints about a run."""
    found: dict[str, Any] = json.loads(read_status(run_dir).model_dump_json())
    return found


def phases(found: dict[str, Any], role: str) -> list[str]:
    """Return the phases of all `students` or `teachers` of a status."""
    return [process["phase"] for node in found["nodes"] for process in node[role]]


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
    assert attempts_of(run_dir)[0].nodes == list(NODES)
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
        done = sum(attempt.last_step or 0 for attempt in attempts_of(run_dir)[-1:])
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
    assert [attempt.job_id for attempt in attempts_of(run_dir)] == jobs
    assert reasons(run_dir) == ["time_limit", "time_limit", "done"]
    assert exact_losses(run_dir) == exact_losses(one_machine)
    assert weights(run_dir) == weights(one_machine)


def test_a_preempted_job_comes_back_and_a_cancelled_one_does_not(
    cluster: Cluster, runs: Runs, tiny: TinyWorld
) -> None:
    """The teacher has two ranks; a node has two, so the students share the first node."""
    run_dir = tiny.folder / "preempted"
    even = write_model(
        tiny.folder / "even_teacher", tiny.folder, num_layers=3, seed=0, extra_rows=1
    )
    overrides = (
        f"teacher.model={even}",
        "topology.ranks_per_teacher=2",
        "student.layers=first",
        "loss.sense_weight=0",
    )
    group = [word for override in overrides for word in ("--set", override)]
    (job,) = runs.submit(run_dir, "--partition=low", "--ntasks-per-node=2", *group)
    runs.wait_for_step(run_dir, 3, job)
    (teacher,) = [one for node in status(run_dir)["nodes"] for one in node["teachers"]]
    assert (teacher["num_ranks"], teacher["phase"]) == (2, "serving")
    urgent = ("--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 1000")
    preempting = cluster.run("sbatch", "--parsable", *urgent).strip()
    cluster.wait_until(lambda: reasons(run_dir) != [None], "the attempt has ended")
    first = attempts_of(run_dir)[0]
    assert (first.reason, first.exit_code, first.is_requeued) == ("preempted", 3, True)
    assert first.made_progress
    queued = status(run_dir)
    assert queued["state"] == "queued"
    assert f"job {job} (preempted" in queued["died_of"]
    cluster.run("scancel", preempting)
    runs.wait_for_step(run_dir, (first.last_step or 0) + 2, job)
    # With the teachers in the same job, their node's failure ends the attempt. The students get
    # SIGTERM and save; nothing that they have done is lost.
    teachers_node = attempts_of(run_dir)[1].nodes[-1]
    cluster.fail_node(teachers_node)
    cluster.start_node(teachers_node)
    runs.wait_for_attempt(run_dir, 3, job)
    second = attempts_of(run_dir)[1]
    assert (second.reason, second.exit_code, second.is_requeued) == ("node_lost", 3, True)
    assert second.first_step == first.last_step
    assert second.made_progress
    runs.wait_for_step(run_dir, (second.last_step or 0) + 2, job)
    cluster.run("scancel", job)
    assert runs.wait_for_end(run_dir, job) == "CANCELLED"
    third = attempts_of(run_dir)[2]
    assert (third.reason, third.is_requeued) == ("cancelled", False)
    assert third.first_step == second.last_step
    assert third.made_progress
    assert not [process for node in NODES for process in cluster.processes_of(node)]
    cancelled = status(run_dir)
    assert (cancelled["state"], cancelled["exit_code"]) == ("saved", 3)
    assert cancelled["attempts"][-1]["reason"] == "cancelled"

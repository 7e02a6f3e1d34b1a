"""A job that SLURM ends: preempted, with a failed node, cancelled."""

from __future__ import annotations

import pytest

from dskd_ds.observe.attempts import log_dir, read_attempts
from tests.conftest import TinyWorld, write_model
from tests.slurm.cluster import NODES, Cluster
from tests.slurm.conftest import Runs, reasons, status

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(1500)]


def test_a_teacher_in_the_students_step_leaves_after_their_save(
    cluster: Cluster, runs: Runs, tiny: TinyWorld
) -> None:
    """All ranks of the step get the signal. If one ended by it, SLURM would kill the others."""
    run_dir = tiny.folder / "one_step"
    overrides = ("train.num_steps=10000", "student.layers=first", "loss.sense_weight=0")
    options = [word for override in overrides for word in ("--set", override)]
    (job,) = runs.submit(run_dir, "--ntasks-per-node=3", *options)
    runs.wait_for_step(run_dir, 3, job)
    cluster.run("scancel", "--batch", "--signal=USR1", job)
    cluster.wait_until(
        lambda: reasons(run_dir) != [None] and cluster.job_field(job, "JobState") == "PENDING",
        "the job waits to start again",  # a job that is cancelled before is requeued all the same
    )
    cluster.run("scancel", job)
    (attempt,) = read_attempts(run_dir)
    assert (attempt.reason, attempt.exit_code, attempt.made_progress) == ("time_limit", 3, True)
    logs = log_dir(run_dir, 1)
    assert "task 2" not in (logs / "students-step.log").read_text()
    assert "answered" in (logs / "student-2.log").read_text()
    assert runs.wait_for_end(run_dir, job) == "CANCELLED"


def test_a_preempted_job_comes_back_and_a_cancelled_one_does_not(
    cluster: Cluster, runs: Runs, tiny: TinyWorld
) -> None:
    """One student; the teacher has two ranks, which share a node."""
    run_dir = tiny.folder / "preempted"
    even = write_model(
        tiny.folder / "even_teacher", tiny.folder, num_layers=3, seed=0, extra_rows=1
    )
    overrides = (
        f"teacher.model={even}",
        "topology.num_students=1",
        "train.num_steps=10000",  # the run must not end before it is cancelled
        "topology.ranks_per_teacher=2",
        "student.layers=first",
        "loss.sense_weight=0",
    )
    group = [word for override in overrides for word in ("--set", override)]
    (job,) = runs.submit(run_dir, "--partition=low", "--ntasks-per-node=2", *group)
    runs.wait_for_step(run_dir, 3, job)
    (teacher,) = [one for node in status(run_dir)["nodes"] for one in node["teachers"]]
    assert (teacher["num_ranks"], teacher["phase"]) == (2, "serving")
    urgent = ("--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=exec sleep 1000")
    preempting = cluster.run("sbatch", "--parsable", *urgent).strip()
    cluster.wait_until(lambda: reasons(run_dir) != [None], "the attempt has ended")
    first = read_attempts(run_dir)[0]
    assert (first.reason, first.exit_code, first.is_requeued) == ("preempted", 3, True)
    assert first.made_progress
    queued = status(run_dir)
    assert queued["state"] == "queued"
    assert f"job {job} (preempted" in queued["died_of"]
    cluster.run("scancel", preempting)
    runs.wait_for_step(run_dir, (first.last_step or 0) + 2, job)
    # With the teachers in the same job, their node's failure ends the attempt. The students get
    # SIGTERM and save; nothing that they have done is lost.
    teachers_node = read_attempts(run_dir)[1].nodes[-1]
    cluster.fail_node(teachers_node)
    cluster.start_node(teachers_node)
    runs.wait_for_attempt(run_dir, 3, job)
    second = read_attempts(run_dir)[1]
    assert (second.reason, second.exit_code, second.is_requeued) == ("node_lost", 3, True)
    assert second.first_step == first.last_step
    assert second.made_progress
    runs.wait_for_step(run_dir, (second.last_step or 0) + 2, job)
    cluster.run("scancel", job)
    assert runs.wait_for_end(run_dir, job) == "CANCELLED"
    third = read_attempts(run_dir)[2]
    assert (third.reason, third.is_requeued) == ("cancelled", False)
    assert third.first_step == second.last_step
    assert third.made_progress
    # The teachers' loop sleeps up to a minute before it starts a step again.
    cluster.wait_until(
        lambda: not [process for node in NODES for process in cluster.processes_of(node)],
        "no process of the job is left",
        patience=90,
    )
    cancelled = status(run_dir)
    assert (cancelled["state"], cancelled["exit_code"]) == ("saved", 3)
    assert cancelled["attempts"][-1]["reason"] == "cancelled"

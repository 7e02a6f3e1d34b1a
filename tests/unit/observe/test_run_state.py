"""The state of a run, and what it died of, from made evidence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dskd_ds.observe.evidence import Evidence, read_evidence
from dskd_ds.observe.run_files import Submission
from dskd_ds.observe.run_state import KILLED, START_SECONDS, outcome
from tests.unit.observe.made_runs import (
    ALIVE,
    DEAD,
    NOW,
    START,
    STARTED,
    attempt,
    end,
    ended,
    metric,
    teacher,
    trained,
)

NOTHING = Evidence(run_dir="runs/my", now=NOW)
IN_JOB = {"start": START.model_copy(update={"job_id": "77"})}
OVER = {"ended": NOW - 5, "exit_code": 3, "reason": "time_limit", "message": "saved in time."}

LATER_JOB = {"job_id": "79", "started": NOW - 20}
REFUSED = LATER_JOB | {"ended": NOW - 5, "exit_code": 2, "reason": "wrong_input"}

SUBMITTED = Submission(
    job_ids=["77", "78"], submitted=NOW - 50, command="dskd submit my.toml", cwd="/home/me"
)

CASES = {
    "submitted": (replace(NOTHING, submission=SUBMITTED), "queued", None),
    "submitted again after its end": (ended(ends=(end(1),), submission=SUBMITTED), "queued", None),
    "submitted, and begun": (
        replace(NOTHING, submission=SUBMITTED, attempts=(attempt(1, started=NOW - 20),)),
        "starting",
        None,
    ),
    "submitted, begun before that was recorded, and over": (
        replace(
            NOTHING,
            submission=SUBMITTED,
            attempts=(
                attempt(1, ended=NOW - 55, exit_code=2, reason="wrong_input", started=NOW - 60),
            ),
        ),
        "dead",
        2,
    ),
    "submitted, begun, and trains": (
        trained(submission=SUBMITTED.model_copy(update={"submitted": STARTED - 99})),
        "running",
        None,
    ),
    "nothing": (NOTHING, "never started", None),
    "a teacher waits": (replace(NOTHING, teachers=(teacher(0),)), "starting", None),
    "a teacher is long gone": (
        replace(NOTHING, teachers=(teacher(0, NOW - 900),)),
        "never started",
        None,
    ),
    "running": (trained(), "running", None),
    "no step yet": (trained(metrics=(metric(10),), students=()), "starting", None),
    "its first steps have no record yet": (
        trained(metrics=(), metrics_written=None, checkpoint=None),
        "running",
        None,
    ),
    "the steps of its repair are none of the run": (
        trained(start=START.model_copy(update={"first_step": None}), metrics=(), repair_step=40),
        "starting",
        None,
    ),
    "it resumes and loads still": (
        trained(start=START.model_copy(update={"first_step": None})),
        "starting",
        None,
    ),
    "the repair runs": (replace(NOTHING, lease=ALIVE, repair_step=3), "starting", None),
    "lock but no record at all": (replace(NOTHING, lease=ALIVE), "starting", None),
    "done": (ended(ends=(end(0),)), "finished", 0),
    "done, and a later launch was refused": (
        ended(ends=(end(0), end(2, rank=1, pid=999, time=NOW - 1))),
        "finished",
        0,
    ),
    "done, and the job of a longer run has begun": (
        ended(**IN_JOB, ends=(end(0, time=NOW - 30),), attempts=(attempt(3, **LATER_JOB),)),
        "starting",
        None,
    ),
    "done, and the job of a longer run has failed": (
        ended(**IN_JOB, ends=(end(0, time=NOW - 30),), attempts=(attempt(3, **REFUSED),)),
        "dead",
        2,
    ),
    "a second job was refused, and the first one goes on": (
        ended(
            **IN_JOB,
            attempts=(
                attempt(2, is_requeued=True, **OVER),
                attempt(3, **REFUSED | {"ended": NOW - 15}),
            ),
        ),
        "queued",
        3,
    ),
    "a job was refused, and the launch by hand was killed later": (
        ended(lease=DEAD, attempts=(attempt(3, **REFUSED | {"ended": NOW - 15}),)),
        "dead",
        None,
    ),
    "the job was killed with its node, and the next one has failed": (
        ended(**IN_JOB, lease=DEAD, attempts=(attempt(2), attempt(3, **REFUSED))),
        "dead",
        2,
    ),
    "saved, and the next job has failed": (
        ended(**IN_JOB, ends=(end(3, time=NOW - 30),), attempts=(attempt(3, **REFUSED),)),
        "dead",
        2,
    ),
    "saved": (ended(ends=(end(3), end(3, role="launch"))), "saved", 3),
    "wrong input": (ended(ends=(end(2, message="a key is wrong"),)), "failed", 2),
    "no teacher": (ended(ends=(end(4, message="no teacher came"),)), "failed", 4),
    "rank 1 failed": (
        ended(ends=(end(1, rank=1, pid=101, message="OSError"), end(1, role="launch"))),
        "failed",
        1,
    ),
    "killed": (ended(lease=DEAD), "dead", None),
    "killed, and an earlier launch had the same process id": (
        ended(ends=(end(0, time=STARTED - 500),)),
        "dead",
        None,
    ),
    "the same, and the earlier one was stopped": (
        ended(ends=(end(3, time=STARTED - 500),)),
        "dead",
        None,
    ),
    "killed, and dskd train saw it": (
        ended(lease=DEAD, ends=(end(247, role="launch", message="SIGKILL ended it"),)),
        "dead",
        247,
    ),
    "an older version, stopped": (replace(NOTHING, metrics=(metric(40),)), "dead", None),
    "an older version, done": (
        replace(NOTHING, metrics=(metric(40),), has_student=True),
        "finished",
        0,
    ),
    "refused before training": (
        replace(NOTHING, ends=(end(2, message="no such model"),)),
        "failed",
        2,
    ),
    "job has just begun": (
        replace(NOTHING, attempts=(attempt(1, started=NOW - 20),)),
        "starting",
        None,
    ),
    "job began long ago": (
        replace(NOTHING, attempts=(attempt(1, started=NOW - START_SECONDS - 1),)),
        "dead",
        None,
    ),
    "job will start again": (
        ended(**IN_JOB, ends=(end(3),), attempts=(attempt(2, is_requeued=True, **OVER),)),
        "queued",
        3,
    ),
    "the next job of a chain goes on": (
        ended(
            **IN_JOB,
            attempts=(attempt(2, **OVER),),
            submission=SUBMITTED.model_copy(update={"submitted": STARTED - 99}),
        ),
        "queued",
        3,
    ),
    "the next job of a chain goes on after a lost node": (
        ended(
            **IN_JOB,
            attempts=(attempt(2, **(OVER | {"exit_code": 137, "reason": "node_lost"})),),
            submission=SUBMITTED.model_copy(update={"submitted": STARTED - 99}),
        ),
        "queued",
        137,
    ),
    "a chain was cancelled": (
        ended(
            **IN_JOB,
            attempts=(attempt(2, **(OVER | {"reason": "cancelled"})),),
            submission=SUBMITTED.model_copy(update={"submitted": STARTED - 99}),
        ),
        "saved",
        3,
    ),
    "the last job of a chain reached its limit": (
        ended(
            **IN_JOB,
            attempts=(attempt(2, **OVER),),
            submission=SUBMITTED.model_copy(
                update={"submitted": STARTED - 99, "job_ids": ["76", "77"]}
            ),
        ),
        "saved",
        3,
    ),
    "job was cancelled": (
        ended(**IN_JOB, attempts=(attempt(2, **OVER | {"reason": "cancelled"}),)),
        "saved",
        3,
    ),
    "node of the job was lost": (ended(**IN_JOB, lease=DEAD, attempts=(attempt(2),)), "dead", None),
    "a job long ago, then a launch by hand": (
        ended(lease=DEAD, attempts=(attempt(1, **OVER | {"ended": STARTED - 500}),)),
        "dead",
        None,
    ),
}


@pytest.mark.parametrize(("evidence", "state", "exit_code"), CASES.values(), ids=CASES)
def test_state(evidence: Evidence, state: str, exit_code: int | None) -> None:
    found = outcome(evidence)
    assert (found.state, found.exit_code) == (state, exit_code)


def test_it_died_of_what_its_ranks_said_first() -> None:
    ends = (
        end(1, role="launch", message="it failed (exit code 1)", time=NOW - 5),
        end(1, rank=1, pid=101, message="OSError: disk full", time=NOW - 9),
    )
    found = outcome(ended(ends=ends))
    assert found.died_of is not None
    assert found.died_of.splitlines()[0] == ("student 1 on node1 (exit code 1): OSError: disk full")


def test_a_second_launch_that_failed_meanwhile_is_not_the_cause() -> None:
    foreign = end(2, message="wrong key", pid=999, time=STARTED + 100)
    assert outcome(ended(lease=DEAD, ends=(foreign,))).died_of == KILLED
    # After the launch's last sign of life it is the newest launch, and so the cause.
    later = foreign.model_copy(update={"time": NOW - 1})
    found = outcome(ended(lease=DEAD, ends=(later,)))
    assert (found.state, found.exit_code) == ("failed", 2)
    assert "wrong key" in (found.died_of or "")


def test_an_error_of_an_earlier_launch_is_not_the_cause() -> None:
    old = end(1, rank=1, pid=101, message="old", time=STARTED - 1)
    assert outcome(ended(lease=DEAD, ends=(old,))).died_of == KILLED


def test_stacks_of_a_hung_rank_and_the_jobs_reason_are_named() -> None:
    evidence = ended(
        **IN_JOB,
        lease=DEAD,
        attempts=(attempt(2, ended=NOW, exit_code=1, reason="node_lost", message="node2 fell."),),
        stacks={"new.stacks.txt": NOW - 12, "old.stacks.txt": STARTED - 5},
    )
    died_of = outcome(evidence).died_of or ""
    assert "new.stacks.txt" in died_of
    assert "old.stacks.txt" not in died_of
    assert "job 77 (node_lost, exit code 1): node2 fell." in died_of


def test_a_launch_that_repairs_says_so_until_the_repaired_student_is_there(tmp_path: Path) -> None:
    (tmp_path / "repair").mkdir()
    (tmp_path / "repair" / "metrics.jsonl").write_text('{"step": 1}\n{"step": 7}\n')
    (tmp_path / "spec.toml").write_text("[repair]\nsteps = 20\n")
    headline = outcome(read_evidence(tmp_path, ALIVE, NOW)).headline
    assert headline.startswith("starting, step 7 of 20 of the repair is done: ")
    (tmp_path / "student_repaired").mkdir()
    headline = outcome(read_evidence(tmp_path, ALIVE, NOW)).headline
    assert headline.startswith("starting, no step is done yet: ")

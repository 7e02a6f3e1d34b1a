"""What `dskd status` says about made runs, as data and as one screen of text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dskd_ds.observe.advice import restart_command
from dskd_ds.observe.evidence import Evidence, Seen
from dskd_ds.observe.judge import judge
from dskd_ds.observe.run_files import WAITING_FOR_TEACHER, RankProgress, Submission
from dskd_ds.observe.status import Status
from dskd_ds.observe.status_text import WIDTH, duration, ranges, status_text
from tests.unit.observe.made_runs import (
    DEAD,
    NOW,
    START,
    attempt,
    end,
    ended,
    metric,
    student,
    teacher,
    trained,
)


def test_a_running_run() -> None:
    status = judge(trained())
    assert (status.state, status.step, status.num_steps) == ("running", 40, 100)
    assert status.speed is not None
    assert (status.speed.step_seconds, status.speed.tokens_per_second) == (2.0, 500.0)
    assert status.speed.teacher_wait_share == 0.25
    assert status.eta_seconds == 60 * 2.0
    assert (status.num_students, status.num_teachers, status.attempt) == (2, 1, 2)
    assert status.checkpoint is not None
    assert (status.checkpoint.step, status.checkpoint.age_seconds) == (30, 60.0)
    assert [node.host for node in status.nodes] == ["node1", "node2"]
    assert [rank.rank for rank in status.nodes[0].students] == [0, 1]
    assert status.nodes[1].teachers[0].queue_length == 1
    assert status.problems == []
    assert Status.model_validate_json(status.model_dump_json()) == status


def test_a_job_that_was_refused_is_not_the_one_that_trains() -> None:
    refused = attempt(3, job_id="79", started=NOW - 20, ended=NOW - 15, reason="wrong_input")
    in_job = START.model_copy(update={"job_id": "77"})
    status = judge(trained(start=in_job, attempts=(attempt(2), refused)))
    assert (status.attempt, status.job_id) == (2, "77")


def test_speed_leaves_out_the_first_step_of_the_launch() -> None:
    records = (metric(11, step_seconds=90.0), metric(12), metric(13))
    speed = judge(trained(metrics=records)).speed
    assert speed is not None
    assert (speed.step_seconds, speed.teacher_wait_share) == (2.0, 0.25)


def waiting(rank: int, phase: str, seconds: float) -> Seen[RankProgress]:
    """Return a student that has been in a phase for so long."""
    seen = student(rank)
    changes = {"phase": phase, "since": NOW - seconds}
    return replace(seen, record=seen.record.model_copy(update=changes))


PROBLEMS = {
    "silent student": (
        {"students": (student(0), student(1, NOW - 90))},
        "student 1 on node1 has not written its progress for more than 60 s",
    ),
    "silent teacher": (
        {"teachers": (teacher(0, NOW - 90),)},
        "teacher 0 on node2 is gone or stands still",
    ),
    "refusing teacher": (
        {"teachers": (teacher(0, num_refused=3, last_error="out of memory"),)},
        "teacher 0 on node2 refused 3 requests, the last one because: out of memory",
    ),
    "no step": ({"metrics_written": NOW - 300}, "no step was done for 300 s; one takes 2 s"),
    "straggler": (
        {"metrics": (metric(40, slowest_rank=1, slowest_factor=2.94),)},
        "student 1 computes 2.9 times as long per step as the others",
    ),
    "no teacher": (
        {"students": (waiting(0, WAITING_FOR_TEACHER, 4.0), waiting(1, WAITING_FOR_TEACHER, 31.0))},
        "students have waited 31 s for a teacher: all are gone, or too slow",
    ),
    "too few teachers": (
        {"metrics": (metric(40, teacher_wait_seconds=1.0),)},
        "students wait for the teacher 50% of the time: more teachers would make the run faster",
    ),
}


@pytest.mark.parametrize(("parts", "expected"), PROBLEMS.values(), ids=PROBLEMS)
def test_problems_of_a_running_run(parts: dict[str, Any], expected: str) -> None:
    assert judge(trained(**parts)).problems == [expected]


def test_steps_between_two_records_count() -> None:
    """With [monitor] log_every_steps = 30; the students are at step 40, for 3 s in a phase."""
    parts = {"metrics": (metric(30),), "metrics_written": NOW - 300}
    status = judge(trained(**parts))
    assert (status.step, status.last_step_age_seconds, status.problems) == (40, 3.0, [])
    assert status.eta_seconds == 60 * 2.0
    late = judge(trained(**parts, students=(waiting(0, "save", 90.0), student(1))))
    assert late.problems == ["no step was done for 90 s; one takes 2 s"]


def test_a_file_of_an_earlier_launch_says_nothing_about_steps() -> None:
    of_earlier = student(0, written=START.started - 1)
    assert judge(trained(metrics=(metric(30),), students=(of_earlier,))).step == 30


def test_nobody_is_silent_in_a_run_that_is_over() -> None:
    old = (student(0, NOW - 500), student(1, NOW - 500))
    status = judge(ended(students=old, teachers=(teacher(0, NOW - 500),)))
    assert "SILENT" not in status_text(status)
    assert len(status.nodes[0].students) == 2


def test_processes_of_earlier_launches_are_left_out() -> None:
    old = START.started - 1
    status = judge(trained(students=(student(0), student(7, old)), teachers=(teacher(3, old),)))
    assert [rank.rank for node in status.nodes for rank in node.students] == [0]
    assert [node.teachers for node in status.nodes] == [[]]


def test_a_teacher_that_was_there_before_the_students_is_shown_at_once() -> None:
    """It writes its file every five seconds; the students of this run began two seconds ago."""
    began = START.model_copy(update={"started": NOW - 2})
    before = (teacher(0, NOW - 4), teacher(1, NOW - 20), teacher(2, NOW - 4, phase="ended"))
    status = judge(trained(start=began, teachers=before))
    assert [one.replica for node in status.nodes for one in node.teachers] == [0]


COMMANDS = {
    "saved": (ended(ends=(end(3),)), "cd /home/me && dskd train my.toml"),
    "killed": (ended(lease=DEAD), "cd /home/me && dskd train my.toml"),
    "finished": (
        ended(ends=(end(0),)),
        "dskd eval runs/my/spec.toml && dskd report runs/my/spec.toml",
    ),
    "running": (trained(), "dskd status runs/my --watch"),
    "an older version": (
        Evidence(run_dir="runs/my", now=NOW, metrics=(metric(3),)),
        "dskd train runs/my/spec.toml",
    ),
    "never started": (Evidence(run_dir="runs/my", now=NOW), None),
}


@pytest.mark.parametrize(("evidence", "command"), COMMANDS.values(), ids=COMMANDS)
def test_what_to_call_next(evidence: Evidence, command: str | None) -> None:
    assert judge(evidence).command == command


@pytest.mark.parametrize(
    ("saved_repair_step", "expected"),
    [(0, "begins at step 0"), (7, "with the repair, from step 7"), (None, "the repaired student")],
)
def test_a_run_without_a_checkpoint_goes_on_from_its_repair(
    saved_repair_step: int | None, expected: str
) -> None:
    evidence = ended(lease=DEAD, checkpoint=None, saved_repair_step=saved_repair_step)
    assert expected in judge(evidence).what_to_do


def test_a_job_is_submitted_again_by_the_command_that_submitted_it() -> None:
    submission = Submission(job_ids=["77"], submitted=1.0, command="dskd submit a.toml", cwd="/x")
    of_job = START.model_copy(update={"job_id": "77"})
    assert restart_command(trained(start=of_job, submission=submission)) == (
        "cd /x && dskd submit a.toml"
    )
    # Since then somebody started it by hand.
    assert "dskd train" in restart_command(trained(submission=submission))


def test_a_submission_after_the_last_launch_is_repeated_and_not_that_launch() -> None:
    """Its job failed before training, so it wrote no record of a launch."""
    submission = Submission(
        job_ids=["79"], submitted=NOW - 60, command="dskd submit b.toml", cwd="/x"
    )
    of_earlier_job = START.model_copy(update={"job_id": "77"})
    found = restart_command(ended(start=of_earlier_job, submission=submission))
    assert found == "cd /x && dskd submit b.toml"


def test_paths_are_quoted_for_the_shell() -> None:
    start = START.model_copy(update={"cwd": "/home/my runs"})
    assert restart_command(trained(start=start)) == "cd '/home/my runs' && dskd train my.toml"


SCREENS = {
    "running": trained(),
    "many nodes": trained(
        students=tuple(student(rank, host=f"host-{rank // 8:03d}") for rank in range(256))
    ),
    "long error": ended(ends=(end(2, message="\n".join(["a very long message " * 9] * 20)),)),
    "attempts": ended(
        attempts=tuple(
            attempt(number, ended=NOW, reason="preempted", exit_code=3) for number in range(1, 40)
        )
    ),
    "nothing": Evidence(run_dir="runs/my", now=NOW),
}


@pytest.mark.parametrize("evidence", SCREENS.values(), ids=SCREENS)
def test_the_text_fits_a_screen(evidence: Evidence) -> None:
    lines = status_text(judge(evidence)).splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= WIDTH


def test_the_text_says_what_a_user_asks() -> None:
    text = status_text(judge(trained()))
    for expected in (
        "running: process 100 on node1",
        "step 40 of 100 (40%), 40,000 tokens",
        "about 2 min 0 s left",
        "students wait for the teacher 25% of a step",
        "teachers wait for requests 25% of the time",
        "students 0-1: forward, step 40, for 3 s",
        "step 30, 1 min 0 s ago",
    ):
        assert expected in text
    dead = status_text(judge(ended(ends=(end(4, message="no teacher came"),))))
    assert "died of      student 0 on node1 (exit code 4): no teacher came" in dead
    assert "cd /home/me && dskd train my.toml" in dead


def test_strange_values_in_the_records_do_not_matter() -> None:
    records = ({"step": 1}, {"step": 2, "step_seconds": 0.0})
    evidence = trained(metrics=records, students=(), spec={"train": 3, "topology": []})
    status = judge(evidence)
    assert (status.step, status.speed) == (2, None)
    assert status_text(status)


@pytest.mark.parametrize(
    ("numbers", "expected"), [([3], "3"), ([2, 0, 1], "0-2"), ([0, 2, 3, 9], "0, 2-3, 9")]
)
def test_ranges(numbers: list[int], expected: str) -> None:
    assert ranges(numbers) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.4, "0 s"), (61, "1 min 1 s"), (3 * 3600 + 300, "3 h 5 min"), (90_000, "1 d 1 h")],
)
def test_duration(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_a_teacher_of_several_ranks_says_so() -> None:
    whole, divided = teacher(0), teacher(1, num_ranks=4)
    text = status_text(judge(trained(teachers=(whole, divided))))
    assert "teacher 0: serving" in text
    assert "teacher 1 (4 ranks): serving" in text

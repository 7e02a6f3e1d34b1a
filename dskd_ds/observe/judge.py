"""Draws the status of a run from the evidence in its run directory."""

from __future__ import annotations

import statistics
from collections import defaultdict

from dskd_ds.errors import ExitCode
from dskd_ds.observe.advice import advice
from dskd_ds.observe.evidence import Evidence, Metrics, Seen
from dskd_ds.observe.run_files import (
    TEACHER_WRITE_SECONDS,
    WAITING_FOR_TEACHER,
    End,
    RankProgress,
    TeacherHealth,
)
from dskd_ds.observe.run_state import current_attempt, outcome
from dskd_ds.observe.status import (
    BestStatus,
    ErrorStatus,
    Memory,
    NodeStatus,
    SaveStatus,
    Speed,
    Status,
    StudentStatus,
    TeacherStatus,
)
from dskd_ds.observe.steps import is_of_last_launch, last_step_time, steps_done
from dskd_ds.observe.stragglers import SLOW_FACTOR

ENDED = "ended"
"""The phase of a process that has ended as it should."""
RECENT_RECORDS = 20
"""Records of metrics.jsonl that speed and waits are taken from."""
SILENT_SECONDS = 60.0
"""A process that lives rewrites its progress file more often than this."""
LONG_STEPS = 10
"""Steps are late if none was done for this many times their usual duration, and a minute."""
REPLY_SECONDS = 10.0
"""A student that waits so long for one reply probably has no teacher."""
TEACHER_WAIT_SHARE = 0.3
"""Share of the step from which waiting for the teacher is a problem."""


def judge(evidence: Evidence) -> Status:
    """Return the status that the evidence supports."""
    end = outcome(evidence)
    start, attempt = evidence.start, current_attempt(evidence)
    last: Metrics = evidence.metrics[-1] if evidence.metrics else {}
    step, num_steps = steps_done(evidence), _num_steps(evidence)
    is_running = end.state == "running"
    is_alive = end.state in ("starting", "running")
    speed, nodes = _speed(evidence), _nodes(evidence, is_alive)
    next_action = advice(evidence, end)
    return Status(
        run_dir=evidence.run_dir,
        name=str(evidence.spec.get("name", "")),
        state=end.state,
        headline=end.headline,
        exit_code=end.exit_code,
        died_of=end.died_of,
        what_to_do=next_action.text,
        command=next_action.command,
        attempt=attempt.number if attempt else start.attempt if start else None,
        job_id=(attempt.job_id if attempt else start.job_id if start else "") or None,
        attempts=list(evidence.attempts),
        step=step,
        num_steps=num_steps,
        tokens=int(last.get("tokens", 0)),
        last_step_age_seconds=_age(evidence, last_step_time(evidence)),
        eta_seconds=_eta(step, num_steps, speed) if is_running else None,
        speed=speed,
        memory=Memory(
            host_bytes=_integer(last, "rss_bytes"), device_bytes=_integer(last, "device_bytes")
        ),
        skipped_steps={key: int(last[key]) for key in last if key.startswith("skipped")},
        checkpoint=_checkpoint(evidence, last),
        best=_best(evidence),
        num_students=start.num_students if start else _topology(evidence, "num_students"),
        num_teachers=start.num_teachers if start else _topology(evidence, "num_teachers"),
        nodes=nodes,
        problems=_problems(evidence, nodes, speed) if is_running else [],
        errors=[_error(evidence, failure) for failure in _failures(evidence)],
    )


def _num_steps(evidence: Evidence) -> int | None:
    """Return the number of steps of the whole run; None if the spec gives epochs only."""
    if evidence.start:
        return evidence.start.num_steps
    train = evidence.spec.get("train")
    number = train.get("num_steps") if isinstance(train, dict) else None
    return number if isinstance(number, int) else None


def _topology(evidence: Evidence, key: str) -> int | None:
    """Return a number of [topology] as the spec has it."""
    topology = evidence.spec.get("topology")
    number = topology.get(key) if isinstance(topology, dict) else None
    return number if isinstance(number, int) else None


def _age(evidence: Evidence, time: float | None) -> float | None:
    """Return how many seconds ago something was; never negative, as clocks of hosts differ."""
    return None if time is None else max(evidence.now - time, 0.0)


def _integer(record: Metrics, key: str) -> int | None:
    """Return a count of a record; None if it is missing, or 0 because it does not apply."""
    return int(record[key]) if record.get(key) else None


def _speed(evidence: Evidence) -> Speed | None:
    """Return the speed over the last records of the launch that wrote the last one."""
    first = (evidence.start.first_step or 0) + 1 if evidence.start else 1
    # The first step of a launch also waits for teachers to start.
    records = [record for record in evidence.metrics if record["step"] > first]
    records = (records or list(evidence.metrics))[-RECENT_RECORDS:]
    seconds = [record["step_seconds"] for record in records if record.get("step_seconds", 0) > 0]
    if not seconds:
        return None
    total = sum(seconds)
    last = records[-1]
    return Speed(
        step_seconds=statistics.median(seconds),
        tokens_per_second=statistics.median(
            record.get("tokens_per_second", 0.0) for record in records
        ),
        teacher_wait_share=_sum(records, "teacher_wait_seconds") / total,
        sense_wait_share=_sum(records, "sense_wait_seconds") / total,
        slowest_rank=int(last["slowest_rank"]) if "slowest_rank" in last else None,
        slowest_factor=last.get("slowest_factor"),
    )


def _sum(records: list[Metrics], key: str) -> float:
    return sum(record.get(key, 0.0) for record in records)


def _eta(step: int, num_steps: int | None, speed: Speed | None) -> float | None:
    if num_steps is None or speed is None:
        return None
    return max(num_steps - step, 0) * speed.step_seconds


def _checkpoint(evidence: Evidence, last: Metrics) -> SaveStatus | None:
    found = evidence.checkpoint
    if found is None:
        return None
    return SaveStatus(
        step=found.step,
        age_seconds=_age(evidence, found.saved) or 0.0,
        save_seconds=last.get("save_seconds"),
    )


def _best(evidence: Evidence) -> BestStatus | None:
    found = evidence.best
    return BestStatus(step=found.step, heldout_loss=found.loss) if found else None


def _nodes(evidence: Evidence, is_alive: bool) -> list[NodeStatus]:
    """Return the processes of the last launch, by host. is_alive: whether the launch should be."""
    students: dict[str, list[StudentStatus]] = defaultdict(list)
    teachers: dict[str, list[TeacherStatus]] = defaultdict(list)
    for student in evidence.students:
        if is_of_last_launch(evidence, student):
            students[student.record.host].append(_student(evidence, student, is_alive))
    for teacher in evidence.teachers:
        if _is_present(evidence, teacher):
            teachers[teacher.record.host].append(_teacher(evidence, teacher, is_alive))
    return [
        NodeStatus(host=host, students=students[host], teachers=teachers[host])
        for host in sorted({*students, *teachers})
    ]


def _is_present(evidence: Evidence, seen: Seen[TeacherHealth]) -> bool:
    """Whether a teacher belongs to the last launch of students.

    One that was there before them may not have written its file again yet.
    """
    is_fresh = evidence.now - seen.written < 2 * TEACHER_WRITE_SECONDS
    return is_of_last_launch(evidence, seen) or (is_fresh and seen.record.phase != ENDED)


def _student(evidence: Evidence, seen: Seen[RankProgress], is_alive: bool) -> StudentStatus:
    record = seen.record
    is_old = evidence.now - seen.written > SILENT_SECONDS
    return StudentStatus(
        rank=record.rank,
        pid=record.pid,
        phase=record.phase,
        phase_seconds=_age(evidence, record.since) or 0.0,
        step=record.step,
        is_silent=is_alive and is_old and record.phase != ENDED,
    )


def _teacher(evidence: Evidence, seen: Seen[TeacherHealth], is_alive: bool) -> TeacherStatus:
    record = seen.record
    is_old = evidence.now - seen.written > SILENT_SECONDS
    return TeacherStatus(
        replica=record.rank,
        pid=record.pid,
        phase=record.phase,
        num_done=record.num_done,
        num_refused=record.num_refused,
        queue_length=record.queue_length,
        busy_share=record.busy_share,
        idle_share=record.idle_share,
        last_error=record.last_error,
        # While it loads its model, it does not write its file again.
        is_silent=is_alive and is_old and record.phase == "serving",
        num_ranks=record.num_ranks,
        name=record.name,
    )


def _problems(evidence: Evidence, nodes: list[NodeStatus], speed: Speed | None) -> list[str]:
    """Return what is wrong with a run that is running, one sentence each."""
    problems = []
    for node in nodes:
        for student in node.students:
            if student.is_silent:
                problems.append(
                    f"student {student.rank} on {node.host} has not written its progress for more"
                    f" than {SILENT_SECONDS:g} s"
                )
        for teacher in node.teachers:
            if teacher.is_silent:
                problems.append(f"teacher {teacher.replica} on {node.host} is gone or stands still")
            if teacher.last_error:
                problems.append(
                    f"teacher {teacher.replica} on {node.host} refused {teacher.num_refused}"
                    f" requests, the last one because: {teacher.last_error}"
                )
    problems += _without_teacher(nodes)
    if speed is not None:
        problems += _slowness(evidence, speed)
    return problems


def _without_teacher(nodes: list[NodeStatus]) -> list[str]:
    """Return one sentence if a student has waited long for a reply."""
    waits = [
        student.phase_seconds
        for node in nodes
        for student in node.students
        if student.phase == WAITING_FOR_TEACHER
    ]
    longest = max(waits, default=0.0)
    if longest < REPLY_SECONDS:
        return []
    return [f"students have waited {longest:.0f} s for a teacher: all are gone, or too slow"]


def _slowness(evidence: Evidence, speed: Speed) -> list[str]:
    problems = []
    age = _age(evidence, last_step_time(evidence)) or 0.0
    if age > max(LONG_STEPS * speed.step_seconds, SILENT_SECONDS):
        problems.append(f"no step was done for {age:.0f} s; one takes {speed.step_seconds:.3g} s")
    if speed.slowest_factor is not None and speed.slowest_factor >= SLOW_FACTOR:
        problems.append(
            f"student {speed.slowest_rank} computes {speed.slowest_factor:.1f} times as long per"
            " step as the others"
        )
    if speed.teacher_wait_share >= TEACHER_WAIT_SHARE:
        problems.append(
            f"students wait for the teacher {speed.teacher_wait_share:.0%} of the time: more"
            " teachers would make the run faster"
        )
    return problems


def _failures(evidence: Evidence) -> list[End]:
    """Return the recorded ends with an error, the newest first."""
    good = (ExitCode.DONE, ExitCode.REQUEUE)
    failures = [end for end in evidence.ends if end.exit_code not in good]
    return sorted(failures, key=_time, reverse=True)


def _time(end: End) -> float:
    return end.time


def _error(evidence: Evidence, end: End) -> ErrorStatus:
    return ErrorStatus(
        role=end.role,
        rank=end.rank,
        host=end.host,
        exit_code=end.exit_code,
        message=end.message,
        age_seconds=_age(evidence, end.time) or 0.0,
    )

"""Decides what state a run is in, and what its last launch died of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dskd_ds.errors import ExitCode
from dskd_ds.observe.attempt_end import ends_a_chain
from dskd_ds.observe.attempts import Attempt
from dskd_ds.observe.evidence import Evidence
from dskd_ds.observe.run_files import End, RunStart, Submission
from dskd_ds.observe.steps import has_trained

State = Literal[
    "never started", "queued", "starting", "running", "finished", "saved", "failed", "dead"
]
"""`starting`: the launch has not finished a step yet. `saved`: it ended with exit code 3. `failed`:
it ended with another exit code. `dead`: its processes are gone, and student 0 did not say why."""

START_SECONDS = 600.0
"""A job whose students have not appeared after so long counts as dead."""
FRESH_SECONDS = 60.0
"""A teacher that wrote its file more recently than this is there."""
KILLED = "killed without a message: by SIGKILL (for example: out of memory), or with its node"


@dataclass(frozen=True)
class Outcome:
    """What state a run is in, and why."""

    state: State
    headline: str
    """One sentence for people."""
    exit_code: int | None = None
    """How the last launch ended; None while it lives, and if nothing recorded it."""
    died_of: str | None = None
    """Why the last launch ended before the run was finished."""


def outcome(evidence: Evidence) -> Outcome:
    """Return the state of the run, from the most reliable evidence to the least."""
    lease, attempt = evidence.lease, current_attempt(evidence)
    if lease and lease.is_alive:
        if has_trained(evidence):
            return Outcome("running", f"running: {lease.owner}")
        return Outcome("starting", f"starting, {_before_training(evidence)}: {lease.owner}")
    submission = evidence.submission
    if submission and _waits_in_queue(evidence, submission):
        jobs = ", ".join(submission.job_ids)
        return Outcome("queued", f"queued: job {jobs} was submitted, and has not begun")
    end = end_of_rank_0(evidence)
    if end and end.exit_code == ExitCode.DONE:
        return Outcome("finished", "finished", exit_code=0)
    if attempt and (attempt.is_requeued or _goes_on_in_a_chain(evidence, attempt)):
        headline = f"queued: goes on after attempt {attempt.number}, job {attempt.job_id}"
        cause = died_of(evidence)
        return Outcome("queued", headline, exit_code=attempt.exit_code, died_of=cause)
    if attempt and attempt.ended is None and _waits_for_students(evidence, attempt):
        job = f"attempt {attempt.number}, job {attempt.job_id}"
        return Outcome("starting", f"starting, no student has come yet: {job}")
    return _ended(evidence, end, attempt)


def _before_training(evidence: Evidence) -> str:
    """Return how far a launch is that has not trained a step."""
    if evidence.repair_step is None:
        return "no step is done yet"
    repair = evidence.spec.get("repair")
    num_steps = repair.get("steps") if isinstance(repair, dict) else None
    total = f" of {num_steps}" if num_steps else ""
    return f"step {evidence.repair_step}{total} of the repair is done"


def _ended(evidence: Evidence, end: End | None, attempt: Attempt | None) -> Outcome:
    """Return how the last launch ended. None lives, and the run is not known to be finished."""
    failures = own_failures(evidence)
    if end and end.exit_code == ExitCode.REQUEUE and end.time >= _last_time(failures):
        text = "it was asked to stop by a signal, and saved"
        return Outcome("saved", f"stopped: {text}", exit_code=end.exit_code, died_of=text)
    cause = died_of(evidence)
    students = [failure for failure in failures if failure.role == "student"]
    launches = [failure for failure in failures if failure.role == "launch"]
    if students:
        when = "" if evidence.start else " before training"
        code = students[0].exit_code
        return Outcome("failed", f"failed with exit code {code}{when}", code, cause)
    if launches:
        headline = f"dead: {launches[-1].message}"
        return Outcome("dead", headline, exit_code=launches[-1].exit_code, died_of=cause)
    if attempt and attempt.ended is not None:
        headline = f"ended: attempt {attempt.number}, job {attempt.job_id}"
        state: State = "saved" if attempt.exit_code == ExitCode.REQUEUE else "dead"
        return Outcome(state, headline, exit_code=attempt.exit_code, died_of=cause)
    if evidence.lease or evidence.start:
        return Outcome("dead", "dead: its processes are gone", died_of=cause)
    if evidence.has_student:
        return Outcome("finished", "finished: the student was exported", exit_code=0)
    if evidence.metrics or evidence.attempts:
        return Outcome("dead", "stopped before its last step", died_of=cause)
    if any(evidence.now - seen.written < FRESH_SECONDS for seen in evidence.teachers):
        return Outcome("starting", "starting: a teacher is there, no student has come yet")
    return Outcome("never started", "never started: no launch has trained here yet")


def _waits_in_queue(evidence: Evidence, submission: Submission) -> bool:
    """Whether none of the submitted jobs has begun, and nothing else was started after them.

    Times are compared only with other jobs and launches: the clocks of a login node and of the
    nodes differ, and the first job may begin while the others are still being submitted.
    """
    has_begun = any(attempt.job_id in submission.job_ids for attempt in evidence.attempts)
    return not has_begun and submission.submitted > _last_start(evidence)


def _last_start(evidence: Evidence) -> float:
    """Return when the last launch or attempt began, in Unix seconds; 0 without any."""
    begun = [attempt.started for attempt in evidence.attempts]
    return max([*begun, evidence.start.started if evidence.start else 0.0])


def current_attempt(evidence: Evidence) -> Attempt | None:
    """Return the last attempt of a job that was not refused because another launch trained.

    None if a launch outside of a job came after it.
    """
    start = evidence.start
    attempts = [one for one in evidence.attempts if not _was_refused(evidence, one)]
    if not attempts:
        return None
    last = attempts[-1]
    is_over = last.ended is not None and start is not None and start.started > last.ended
    return None if is_over else last


def _was_refused(evidence: Evidence, attempt: Attempt) -> bool:
    """Whether an attempt ended while another launch held the run lock, so that it never did."""
    start = evidence.start
    if start is None or attempt.ended is None or _is_of(start, attempt):
        return False
    return start.started <= attempt.ended <= _held_until(evidence, start)


def _held_until(evidence: Evidence, start: RunStart) -> float:
    """Return until when the last launch that trained held the run lock, in Unix seconds."""
    if evidence.lease and evidence.lease.is_alive:
        return evidence.now
    own_end = next((one.ended for one in evidence.attempts if _is_of(start, one)), None)
    return own_end or _last_sign_of_life(evidence)


def _is_of(start: RunStart, attempt: Attempt) -> bool:
    """Whether a launch belongs to an attempt. Launches outside of jobs have numbers too."""
    return (start.attempt, start.job_id) == (attempt.number, attempt.job_id)


def _goes_on_in_a_chain(evidence: Evidence, attempt: Attempt) -> bool:
    """Whether the attempt has ended in such a way that a later job of its chain goes on."""
    jobs = evidence.submission.job_ids if evidence.submission else []
    is_followed = attempt.job_id in jobs[:-1]
    return attempt.ended is not None and is_followed and not ends_a_chain(attempt)


def _waits_for_students(evidence: Evidence, attempt: Attempt) -> bool:
    """Whether a job has begun so recently that its students may still come."""
    start = evidence.start
    has_come = start is not None and start.started > attempt.started
    return not has_come and evidence.now - attempt.started < START_SECONDS


def end_of_rank_0(evidence: Evidence) -> End | None:
    """Return how student rank 0 of the last launch that trained ended; None if it did not say.

    None also if a job has begun after that: it may go on with a run that was finished or saved.
    """
    start = evidence.start
    last_begun = max((attempt.started for attempt in evidence.attempts), default=0.0)
    for end in evidence.ends:
        is_rank_0 = end.role == "student" and end.rank == 0
        if start and is_rank_0 and (end.host, end.pid) == (start.host, start.pid):
            # In a container every launch can have the same host and process id.
            return end if end.time >= max(start.started, last_begun) else None
    return None


def own_failures(evidence: Evidence) -> list[End]:
    """Return the recorded failures of the last launch, the first one first.

    A second launch that failed while the first one trained has left records too. They are of other
    processes, and older than the last sign of life of the first one.
    """
    pids = {(seen.record.rank, seen.record.host): seen.record.pid for seen in evidence.students}
    start = evidence.start
    begun = start.started if start else 0.0
    if start:
        pids[0, start.host] = start.pid
    last_sign = _last_sign_of_life(evidence)
    found = []
    for end in evidence.ends:
        is_known = end.role == "student" and pids.get((end.rank, end.host)) == end.pid
        is_own = is_known or end.role != "student"
        is_of_last_launch = end.time >= begun if is_own else end.time > last_sign
        is_failure = end.exit_code not in (ExitCode.DONE, ExitCode.REQUEUE)
        if is_of_last_launch and is_failure:
            found.append(end)
    return sorted(found, key=_time)


def _last_sign_of_life(evidence: Evidence) -> float:
    """Return when a student of the last launch that trained last wrote anything."""
    written = [seen.written for seen in evidence.students]
    written += [evidence.metrics_written or 0.0, evidence.start.started if evidence.start else 0.0]
    return max(written)


def _time(end: End) -> float:
    return end.time


def _last_time(ends: list[End]) -> float:
    return max((end.time for end in ends), default=0.0)


def died_of(evidence: Evidence) -> str:
    """Return why the last launch ended, as its processes said it; else what is likely."""
    reasons = []
    for end in own_failures(evidence):
        process = "launch" if end.role == "launch" else f"{end.role} {end.rank} on {end.host}"
        reasons.append(f"{process} (exit code {end.exit_code}): {end.message.strip()}")
    attempt = current_attempt(evidence)
    if attempt and attempt.reason:
        code = "" if attempt.exit_code is None else f", exit code {attempt.exit_code}"
        reasons.append(f"job {attempt.job_id} ({attempt.reason}{code}): {attempt.message}".strip())
    begun = evidence.start.started if evidence.start else 0.0
    for path, written in evidence.stacks.items():
        if written >= begun:
            reasons.append(f"a rank hung; the stacks of its threads: {path}")
    return "\n".join(reasons) or KILLED

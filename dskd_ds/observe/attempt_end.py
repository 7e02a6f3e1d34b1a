"""Decides why an attempt ended, and whether its job is to start again.

SLURM ends a job in several ways that look alike to its processes: SIGTERM comes before a
preemption, at the time limit and with scancel. The state of the job and what slurmstepd
writes into the output of the tasks tell them apart.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Literal

from dskd_ds.errors import ExitCode
from dskd_ds.observe.attempts import Attempt, Reason

StopWish = Literal["none", "time_limit", "ending"]
"""What the job script received: nothing, USR1 before the time limit, or TERM because it ends."""
MAX_FRUITLESS_ATTEMPTS = 3
"""A job is not started again after so many attempts in a row that saved nothing new."""
STOPPED_CODES = (ExitCode.REQUEUE, 128 + signal.SIGTERM)
"""Exit codes of students that were asked to stop: after a save, and before training began."""
CAUSES: dict[str, Reason] = {
    "TIME LIMIT": "time_limit",
    "PREEMPTION": "preempted",
    "JOB REQUEUE": "preempted",
    "NODE FAILURE": "node_lost",
}
"""What slurmstepd writes into the tasks' output when SLURM ends a job -> the reason."""
RETRIED: tuple[Reason, ...] = ("time_limit", "preempted", "node_lost", "no_teacher", "failed")
"""Reasons after which another attempt may succeed."""


@dataclass(frozen=True)
class Ending:
    """What is known when the students' step of an attempt has ended."""

    exit_code: int
    """Of the task that failed first, if srun named it; else srun's own."""
    stop_wish: StopWish
    is_job_ending: bool
    """Whether SLURM is ending the whole job now, and not only the students' step."""
    cause: str
    """Why SLURM ends the job, in its words, such as `PREEMPTION`; "" for scancel."""
    lost_nodes: tuple[str, ...]
    """Nodes of the attempt that failed meanwhile."""


def reason_of(ending: Ending) -> Reason:
    """Return why the attempt ended."""
    code = ending.exit_code
    if code == ExitCode.DONE:
        return "done"
    # scancel during the save before the time limit is still a wish to end.
    if ending.is_job_ending:
        return CAUSES.get(ending.cause, "cancelled")
    if code == ExitCode.WRONG_INPUT:
        return "wrong_input"
    if ending.stop_wish == "time_limit":
        return "time_limit"
    if code in STOPPED_CODES:
        return "preempted"
    if ending.lost_nodes:
        return "node_lost"
    return "no_teacher" if code == ExitCode.NO_TEACHER else "failed"


def is_worth_another(reason: Reason, attempt: Attempt, earlier: list[Attempt]) -> bool:
    """Return whether the job is to start again.

    attempt: with the steps at its end. earlier: the attempts before it, sorted by number.

    A failure that comes from the run itself comes again: it is tried again only if this attempt
    left a newer checkpoint, of the training or of the repair. What the cluster did is tried again
    in any case, but not for ever.
    """
    if reason not in RETRIED:
        return False
    if attempt.made_progress:
        return True
    if reason in ("failed", "no_teacher"):
        return False
    recent = earlier[1 - MAX_FRUITLESS_ATTEMPTS :]
    is_fruitless = [
        other.job_id == attempt.job_id and other.ended is not None and not other.made_progress
        for other in recent
    ]
    return len(recent) < MAX_FRUITLESS_ATTEMPTS - 1 or not all(is_fruitless)


def ends_a_chain(attempt: Attempt) -> bool:
    """Return whether the next job of a chain has nothing to do after this attempt.

    What ended it would end the next one in the same way, or a user wanted it. An attempt without a
    reason could not record its end.
    """
    if attempt.reason in ("failed", "no_teacher"):
        return not attempt.made_progress
    return attempt.reason in ("done", "cancelled", "wrong_input")


def message_of(reason: Reason, ending: Ending, attempt: Attempt, *, goes_on: str) -> str:
    """Return one sentence about the end for users. goes_on: what comes next."""
    what = {
        "done": "the run is done",
        "time_limit": "the time limit came near",
        "preempted": "SLURM or a user asked the job to make room",
        "cancelled": "the job was cancelled",
        "node_lost": f"{', '.join(ending.lost_nodes) or 'a node'} failed",
        "no_teacher": "no teacher was left",
        "wrong_input": "the input is wrong",
        "failed": f"the students failed with exit code {ending.exit_code}",
        "unknown": "the end was not recorded",
    }[reason]
    return f"{what}; {_saved(attempt)}; {goes_on}." if reason != "done" else f"{what}."


def _saved(attempt: Attempt) -> str:
    """Return what the run could go on from when the attempt ended."""
    if attempt.last_step:
        return f"the newest checkpoint is step {attempt.last_step}"
    if attempt.last_repair_step is None:
        return "the repair is done, and no step after it was saved"
    if attempt.last_repair_step:
        return f"the newest checkpoint of the repair is step {attempt.last_repair_step}"
    return "nothing was saved"

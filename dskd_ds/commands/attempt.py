"""Called by the job scripts in slurm/: begins and ends an attempt, and checks its nodes."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from dskd_ds.commands.status import read_status
from dskd_ds.errors import DskdError, ExitCode, InputError
from dskd_ds.observe.attempt_end import (
    Ending,
    StopWish,
    ends_a_chain,
    is_worth_another,
    message_of,
    reason_of,
)
from dskd_ds.observe.attempts import (
    Attempt,
    Reason,
    begin_attempt,
    log_dir,
    read_attempts,
    record_path,
    without_end,
    write_attempt,
)
from dskd_ds.observe.run_files import SUBMISSION_FILE, Submission, read_record
from dskd_ds.observe.saved import newest_repair_step, newest_step
from dskd_ds.runtime.slurm import cause_of_end, expand_nodes, failed_nodes, first_failure, read_job

TEXT = """\
Record the attempts of a run; the job scripts in slurm/ call this.

  begin       number a new attempt; prints the number, or nothing if a chain of jobs has ended
  check-node  check that this node sees the run directory
  end         record how the attempt ended; prints `requeue` if the job is to start again
  not-requeued     record that SLURM has refused to start the job again
  teachers-ended   in a job of teachers: print what to do after its teachers have ended"""
STEP_LOG = "students-step.log"
"""What srun itself printed about the students' step."""
NUM_LOG_LINES = 20
"""Lines that are shown of the log of a rank that failed."""
VISIBLE_SECONDS = 30.0
"""A network file system may show a new file to other nodes so much later."""
WAITING_JOB_STATES = ("PENDING", "CONFIGURING", "COMPLETING", "SUSPENDED")
"""States of a job that will run, or run again; COMPLETING comes before SLURM requeues a job."""
ENDING_JOB_STATES = ("COMPLETING", "CANCELLED", "TIMEOUT", "PREEMPTED")
"""States of a job that SLURM is ending as a whole."""


def main(argv: list[str] | None = None) -> int:
    """Run one of the actions and return its exit code."""
    args = _parser().parse_args(argv)
    action: Callable[[argparse.Namespace], int] = args.action
    try:
        return action(args)
    except DskdError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dskd_ds.commands.attempt",
        description=TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(required=True)
    begin_parser = actions.add_parser("begin")
    check_parser = actions.add_parser("check-node")
    end_parser = actions.add_parser("end")
    refused_parser = actions.add_parser("not-requeued")
    teachers_parser = actions.add_parser("teachers-ended")
    functions = (
        (begin_parser, begin),
        (check_parser, check_node),
        (end_parser, end),
        (refused_parser, not_requeued),
        (teachers_parser, teachers_ended),
    )
    for action, function in functions:
        action.add_argument("--run-dir", type=Path, required=True)
        action.set_defaults(action=function)
    for action in (check_parser, end_parser, refused_parser):
        action.add_argument("--number", type=int, required=True)
    for action in (begin_parser, end_parser):
        action.add_argument("--chain-index", type=int, default=1)
    for action in (end_parser, teachers_parser):
        action.add_argument("--exit-code", type=int, required=True)
    end_parser.add_argument("--stop-wish", choices=get_args(StopWish), default="none")
    end_parser.add_argument("--chain-length", type=int, default=1)
    return parser


def begin(args: argparse.Namespace) -> int:
    """Write the record of a new attempt and print its number.

    A later job of a chain goes on unless the run has ended.
    """
    run_dir: Path = args.run_dir
    last = next(reversed(read_attempts(run_dir)), None)
    is_first_start = os.environ.get("SLURM_RESTART_COUNT", "0") in ("", "0")
    is_later_job = args.chain_index > 1 and is_first_start
    if is_later_job and last and last.ended is None:
        last = _closed(run_dir, last)
    if is_later_job and last and ends_a_chain(last):
        print(
            f"job {args.chain_index} of the chain has nothing to do: {last.message}",
            file=sys.stderr,
        )
        return int(ExitCode.DONE if last.reason == "done" else ExitCode.FAILED)
    job = read_job(os.environ["SLURM_JOB_ID"])
    nodes = list(job.nodes) or expand_nodes(os.environ.get("SLURM_JOB_NODELIST", ""))
    attempt = begin_attempt(run_dir, env=os.environ, nodes=nodes)
    print(attempt.number)
    print(
        f"attempt {attempt.number} of {run_dir} on {', '.join(nodes)};"
        f" logs: {log_dir(run_dir, attempt.number)}",
        file=sys.stderr,
    )
    return int(ExitCode.DONE)


def _closed(run_dir: Path, attempt: Attempt) -> Attempt:
    """Write and return the record of an attempt of a job that has ended and could not write it."""
    is_cancelled = read_job(attempt.job_id).state == "CANCELLED"
    reason: Reason = "cancelled" if is_cancelled else "unknown"
    closed = without_end(run_dir, attempt, reason=reason)
    write_attempt(run_dir, closed)
    return closed


def check_node(args: argparse.Namespace) -> int:
    """Raise InputError if this node does not see the record of the attempt."""
    path = record_path(args.run_dir, args.number)
    deadline = time.monotonic() + VISIBLE_SECONDS
    # A folder that is missing here is no delay of the file system.
    while not path.is_file():
        if not args.run_dir.is_dir() or time.monotonic() > deadline:
            node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
            raise InputError(
                f'run_dir = "{args.run_dir}", but node {node} does not see what the first node'
                " wrote there.\n"
                "  set run_dir to a folder on a file system that all nodes share."
            )
        time.sleep(0.5)
    return int(ExitCode.DONE)


def end(args: argparse.Namespace) -> int:
    """Write the end of an attempt into its record, and print `requeue` or `stop`."""
    run_dir: Path = args.run_dir
    attempts = read_attempts(run_dir)
    attempt = next(attempt for attempt in attempts if attempt.number == args.number)
    earlier = [other for other in attempts if other.number < args.number]
    ending = _ending(args, attempt)
    reason = reason_of(ending)
    steps = {"last_step": newest_step(run_dir), "last_repair_step": newest_repair_step(run_dir)}
    attempt = attempt.model_copy(update=steps)
    is_worth_it = is_worth_another(reason, attempt, earlier)
    is_handed_over = reason == "time_limit" and args.chain_index < args.chain_length
    is_requeued = is_worth_it and not is_handed_over
    next_job = f"job {args.chain_index + 1} of {args.chain_length} goes on"
    goes_on = next_job if is_handed_over else _goes_on(reason, is_requeued)
    message = message_of(reason, ending, attempt, goes_on=goes_on)
    update = {
        "ended": time.time(),
        "exit_code": ending.exit_code,
        "reason": reason,
        "is_requeued": is_requeued,
        "message": message,
    }
    write_attempt(run_dir, attempt.model_copy(update=update))
    if reason in ("failed", "wrong_input"):
        _show_failed_rank(run_dir, attempt.number)
    print(f"attempt {attempt.number}: {message}", file=sys.stderr)
    print("requeue" if is_requeued else "stop")
    return int(ExitCode.DONE)


def not_requeued(args: argparse.Namespace) -> int:
    """Correct the record of an attempt whose job SLURM has refused to start again."""
    attempt = next(one for one in read_attempts(args.run_dir) if one.number == args.number)
    is_ending = read_job(attempt.job_id).state in ENDING_JOB_STATES
    # SLURM itself requeues such a job, and refuses to do it twice.
    if not (is_ending and attempt.reason in ("preempted", "node_lost")):
        message = f"{attempt.message} SLURM refused to start it again."
        update = {"is_requeued": False, "message": message}
        write_attempt(args.run_dir, attempt.model_copy(update=update))
        print(f"attempt {attempt.number}: {message}", file=sys.stderr)
    return int(ExitCode.DONE)


def _goes_on(reason: Reason, is_requeued: bool) -> str:
    """Return what comes next, for the message."""
    if is_requeued:
        return "the job starts again"
    return {
        "cancelled": "submit it again to go on",
        "wrong_input": "correct what the message names and submit it again",
        "failed": "it would fail again, see the logs",
        "no_teacher": "see the teachers' logs",
    }.get(
        reason, "too many attempts in a row saved nothing: raise --time, or the seconds of --signal"
    )


def teachers_ended(args: argparse.Namespace) -> int:
    """Print what a job of teachers does now: `again`, `requeue` or `stop`.

    Teachers that no student has needed for a while give their node back while the students' job
    waits in the queue. They end when the run is over, also if they failed at its very end.
    """
    decision = "again"
    is_final = args.exit_code in (ExitCode.DONE, ExitCode.WRONG_INPUT)
    if is_final or read_status(args.run_dir).state == "finished":
        decision = "stop"
    elif args.exit_code == ExitCode.NO_TEACHER:
        decision = _without_students(args.run_dir)
    print(decision)
    return int(ExitCode.DONE)


def _without_students(run_dir: Path) -> str:
    """Return what teachers do that no student has needed for a while.

    SLURM knows whether students come again. The run directory may say that a job waits in the
    queue that was cancelled there, or nothing about one whose first node has failed.
    """
    submission = read_record(run_dir / SUBMISSION_FILE, Submission)
    job_ids = [
        *(submission.job_ids if submission else []),
        *(one.job_id for one in read_attempts(run_dir)[-1:]),
    ]
    states = [read_job(job_id).state for job_id in dict.fromkeys(job_ids)]
    if "RUNNING" in states:
        decision = "again"
    elif set(states) & set(WAITING_JOB_STATES):
        decision = "requeue"
    else:
        decision = "stop"
    known = ", ".join(state or "unknown to SLURM" for state in states) or "none"
    print(f"no student has come; the students' jobs: {known}; {decision}", file=sys.stderr)
    return decision


def _ending(args: argparse.Namespace, attempt: Attempt) -> Ending:
    """Collect what is known about the end from the logs and from SLURM."""
    job = read_job(attempt.job_id)
    logs = log_dir(args.run_dir, attempt.number)
    code = args.exit_code
    # srun returns the largest code: 137 if a rank that failed made it kill the others.
    failure = first_failure(_text_of(logs / STEP_LOG))
    if failure and failure.exit_code is not None:
        code = failure.exit_code
    return Ending(
        exit_code=code,
        stop_wish=args.stop_wish,
        # SLURM calls a job that is being ended COMPLETING, whatever the cause.
        is_job_ending=job.state in ENDING_JOB_STATES,
        cause=cause_of_end("\n".join(_text_of(path) for path in logs.glob("student-*.log"))),
        lost_nodes=tuple(failed_nodes(attempt.nodes)),
    )


def _show_failed_rank(run_dir: Path, number: int) -> None:
    """Print the end of the log of the rank that failed first."""
    folder = log_dir(run_dir, number)
    failure = first_failure(_text_of(folder / STEP_LOG))
    if failure is None:
        return
    path = folder / f"student-{failure.task}.log"
    lines = _text_of(path).splitlines()[-NUM_LOG_LINES:]
    print(f"the last lines of {path}:", *lines, sep="\n", file=sys.stderr)


def _text_of(path: Path) -> str:
    """Return the content of a log; "" if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main())

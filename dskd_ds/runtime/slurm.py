"""Asks SLURM about jobs and nodes, and submits jobs, with its own commands."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from dskd_ds.errors import InputError
from dskd_ds.runtime.supervise import SIGNAL_CODE_BASE

TIMEOUT_SECONDS = 60.0
"""A controller that is busy or being restarted may take this long to answer."""
FIRST_FAILURE = re.compile(r"tasks? (\d+)[\d,-]*: (?:Exited with exit code (\d+)|(\w[\w ]*))")
"""A message of srun about tasks that failed; they are printed in the order of the failures. For a
task that a signal ended it is the signal's name in words, such as `Segmentation fault`."""
SIGNAL_CODES = {
    signal.strsignal(number): SIGNAL_CODE_BASE + number for number in signal.valid_signals()
} | {"Out Of Memory": SIGNAL_CODE_BASE + signal.SIGKILL}
"""srun's words for the signal that ended a task -> a shell's exit code for it."""
CANCELLED = re.compile(
    r"\*\*\* (?:STEP|JOB) \S+ ON \S+ CANCELLED AT [^ *]+(?: DUE TO ([A-Z ]*[A-Z])[^*]*)? \*\*\*"
)
"""A message of slurmstepd in the output of tasks that SLURM ends."""


@dataclass(frozen=True)
class JobFacts:
    """What `scontrol show job` says about a job."""

    state: str
    """For example RUNNING; COMPLETING while SLURM ends the job; "" if SLURM did not answer."""
    nodes: tuple[str, ...]
    """Nodes of the allocation, without those that have ended their part of a job that ends."""


@dataclass(frozen=True)
class TaskFailure:
    """The first task of a step that failed."""

    task: int
    exit_code: int | None
    """128 plus the signal's number if a signal ended the task; None if srun's words are unknown."""


def read_job(job_id: str) -> JobFacts:
    """Return the facts about a job; for a heterogeneous job, the nodes of all components."""
    shown = _output(["scontrol", "-o", "show", "job", job_id])
    state = re.search(r"\bJobState=(\w+)", shown)
    lists = re.findall(r"(?<!\w)NodeList=(\S+)", shown)
    nodes = [node for nodes in lists if nodes != "(null)" for node in expand_nodes(nodes)]
    return JobFacts(state[1] if state else "", tuple(nodes))


def expand_nodes(nodes: str) -> list[str]:
    """Return the names in a list of nodes such as `node[1-3,7]`."""
    return _output(["scontrol", "show", "hostnames", nodes]).split()


def failed_nodes(nodes: list[str]) -> list[str]:
    """Return those of the nodes that are down or do not respond."""
    if not nodes:
        return []
    lines = _output(["sinfo", "-h", "-N", "-o", "%N %T", "-n", ",".join(nodes)]).splitlines()
    states = dict(line.split() for line in lines if len(line.split()) == 2)
    return [node for node in nodes if states.get(node, "").startswith("down")]


def first_failure(step_messages: str) -> TaskFailure | None:
    """Return the task that failed first, by what srun printed; None if it named no task."""
    match = FIRST_FAILURE.search(step_messages)
    if match is None:
        return None
    code = int(match[2]) if match[2] else SIGNAL_CODES.get(match[3].strip())
    return TaskFailure(int(match[1]), code)


def cause_of_end(task_output: str) -> str:
    """Return why SLURM ended a step, such as `TIME LIMIT`; "" if it gave no cause (scancel)."""
    causes = [match[1] for match in CANCELLED.finditer(task_output) if match[1]]
    return causes[-1] if causes else ""


def require_slurm() -> None:
    """Raise InputError if this machine has no sbatch."""
    if shutil.which("sbatch") is None:
        raise InputError(
            "sbatch: there is no such command on this machine.\n"
            "  submit from a login node of the cluster, or add --dry-run to print the script."
        )


def submit(script: str, *, name: Path, dependency: str = "") -> str:
    """Submit a job script and return the job's number.

    name: the file that the script comes from, for messages. dependency: for example `afterok:17`.
    Raises InputError with SLURM's reason if it refuses the script.
    """
    command = ["sbatch", "--parsable"]
    if dependency:
        command.append(f"--dependency={dependency}")
    done = subprocess.run(command, input=script, capture_output=True, text=True)
    if done.returncode:
        raise InputError(refusal(name, done.stderr, _output(["sinfo", "-o", "%P %D %c %m %G %l"])))
    # With several clusters sbatch prints "NUMBER;CLUSTER".
    return done.stdout.strip().split(";")[0]


def cancel(job_ids: list[str]) -> None:
    """End jobs."""
    if job_ids:
        _output(["scancel", *job_ids])


def refusal(name: Path, reason: str, partitions: str) -> str:
    """Return the message about a script that sbatch has refused."""
    prefixes = r"(?:sbatch: |error: |Batch job submission failed: |allocation failure: )"
    lines = [re.sub(f"^{prefixes}+", "", line) for line in reason.strip().splitlines()]
    reasons = "; ".join(dict.fromkeys(line for line in lines if line))
    shown = "".join(f"  {line}\n" for line in partitions.splitlines())
    return (
        f"{name.name}: SLURM refuses this job: {reasons}.\n"
        "  change --partition, --nodes, --gpus-per-node or the option that does not fit."
        " The partitions are:\n"
        f"{shown}".rstrip()
    )


def _output(command: list[str]) -> str:
    """Return what a command of SLURM printed; "" if it failed or is not installed."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""

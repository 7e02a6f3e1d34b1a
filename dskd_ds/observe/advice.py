"""Says what to do next with a run: a sentence, and the exact command if there is one."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from dskd_ds.errors import ExitCode
from dskd_ds.observe.evidence import Evidence
from dskd_ds.observe.run_state import Outcome
from dskd_ds.spec import SPEC_FILE


@dataclass(frozen=True)
class Advice:
    """What to do next."""

    text: str
    command: str | None = None
    """For the shell."""


def advice(evidence: Evidence, end: Outcome) -> Advice:
    """Return what to do next with a run in this state."""
    spec_file = shlex.quote(f"{evidence.run_dir}/{SPEC_FILE}")
    again = restart_command(evidence)
    if end.state == "never started":
        return Advice("start it with `dskd train SPEC.toml`, or with the launcher of your cluster.")
    if end.state == "queued":
        return Advice("nothing: SLURM starts the job.", "squeue --me")
    if end.state in ("starting", "running"):
        return Advice("nothing: watch it.", f"dskd status {shlex.quote(evidence.run_dir)} --watch")
    if end.state == "finished":
        return Advice(
            "evaluate it, and write its report.",
            f"dskd eval {spec_file} && dskd report {spec_file}",
        )
    if end.exit_code == ExitCode.WRONG_INPUT:
        return Advice("correct the input that the message names, then start it again.", again)
    if end.exit_code == ExitCode.NO_TEACHER:
        return Advice(
            "find out why no teacher came (its output, [link] address), then start it again; with"
            " num_teachers = 0, teachers are started by `python -m dskd_ds.teacher --spec"
            f" {spec_file}`.",
            again,
        )
    if end.state == "saved" or evidence.checkpoint:
        step = f" at step {evidence.checkpoint.step}" if evidence.checkpoint else ""
        return Advice(f"start it again: it goes on from its newest checkpoint{step}.", again)
    if evidence.saved_repair_step is None:
        return Advice("start it again: it goes on from the repaired student.", again)
    if evidence.saved_repair_step:
        saved = f"step {evidence.saved_repair_step}"
        return Advice(f"start it again: it goes on with the repair, from {saved}.", again)
    return Advice("start it again: it has no checkpoint, so it begins at step 0.", again)


def restart_command(evidence: Evidence) -> str:
    """Return the command that submitted or started the last launch; `dskd train` if unknown."""
    start, submission = evidence.start, evidence.submission
    is_newest = submission is not None and (
        start is None
        or start.job_id in submission.job_ids
        or start.started < submission.submitted  # its job failed before training, or never began
    )
    if submission and is_newest:
        return f"cd {shlex.quote(submission.cwd)} && {submission.command}"
    if start is None or not start.command:
        return f"dskd train {shlex.quote(f'{evidence.run_dir}/{SPEC_FILE}')}"
    return f"cd {shlex.quote(start.cwd)} && {start.command}"

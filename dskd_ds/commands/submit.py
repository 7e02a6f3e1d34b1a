"""`dskd submit`: writes the job scripts of a run and submits them to SLURM."""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dskd_ds.errors import InputError
from dskd_ds.observe.run_files import record_submission
from dskd_ds.runtime.arguments import Commands, add_force, at_least, spec_command

if TYPE_CHECKING:
    from dskd_ds.commands.submit_jobs import Job

STAGES = ("pack", "senses", "teach", "train", "eval")
TIME_LIMIT = re.compile(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}|infinite|unlimited", re.IGNORECASE)
"""Forms of sbatch --time: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S."""
TEXT = """\
Submit a run to SLURM. The scripts are those in slurm/, with the options and settings of this run
filled in; --dry-run prints them instead.

The job needs the nodes that [topology] asks for: students first, then teachers on nodes of their
own (on one node, if all fit). Every --sbatch becomes one more #SBATCH line:

  dskd submit my.toml --gpus-per-node 8 --time 24:00:00 --sbatch account=nlp --sbatch exclusive

Before its time limit, after a preemption and after the failure of a node the job is saved, requeued
and resumed. scancel saves the run and ends it. Each start is an attempt: its record and logs are in
RUN_DIR/attempts/. Edit slurm/environment.sh for the modules and variables of your site."""


def add_command(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register `dskd submit`."""
    command = spec_command(
        commands,
        "submit",
        "submit a run to SLURM; the job requeues and resumes itself",
        description=TEXT,
    )
    command.add_argument(
        "--dry-run", action="store_true", help="check everything and print the scripts"
    )
    command.add_argument(
        "--what",
        type=_stages,
        default=("train",),
        metavar="STAGES",
        help="pack, senses, teach, train and eval, joined by commas: each starts when the one"
        " before it is done (default train); teach keeps the teacher's signal for [teacher] source"
        ' = "cache"',
    )
    command.add_argument(
        "--chain",
        type=at_least(1),
        default=1,
        metavar="N",
        help="submit N jobs that train one after the other, each up to its time limit, instead of"
        " one that is requeued; for sites that do not allow requeueing (not with --teachers-job,"
        " whose jobs are requeued)",
    )
    add_force(command)
    _add_layout(command)
    _add_site(command)
    command.set_defaults(command=run)


def _add_layout(command: argparse.ArgumentParser) -> None:
    """Add the options that say what a node holds."""
    layout = command.add_argument_group("nodes")
    count = at_least(1)
    layout.add_argument(
        "--gpus-per-node", type=count, metavar="N", help="GPUs of a node; one rank runs on each"
    )
    layout.add_argument(
        "--ntasks-per-node", type=count, metavar="N", help="ranks of a node, if not one per GPU"
    )
    layout.add_argument(
        "--num-teachers", type=count, metavar="N", help="teachers (default [topology] num_teachers)"
    )
    layout.add_argument(
        "--teachers-per-node",
        type=count,
        metavar="N",
        help="teachers of a teachers' node, if fewer than fit; they get nodes of their own",
    )
    layout.add_argument(
        "--het",
        action="store_true",
        help="submit a heterogeneous job: the teachers' nodes are its second component",
    )
    layout.add_argument(
        "--teachers-job",
        action="store_true",
        help="submit the teachers as jobs of their own, one per node: when such a node fails, its"
        " job is requeued and the students go on (not with --het or --chain)",
    )
    layout.add_argument(
        "--het-sbatch",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of sbatch for the teachers' component or jobs alone (--het, --teachers-job),"
        " e.g. gpus-per-node=4 (may be given several times)",
    )
    layout.add_argument(
        "--senses-nodes", type=count, default=1, metavar="N", help="nodes of --what senses"
    )
    layout.add_argument(
        "--teach-nodes", type=count, default=1, metavar="N", help="nodes of --what teach"
    )
    layout.add_argument(
        "--pack-nodes", type=count, default=1, metavar="N", help="nodes of --what pack"
    )
    layout.add_argument(
        "--pack-tasks-per-node",
        type=count,
        metavar="N",
        help="tasks of a node of --what pack, one core each (default: ranks of a node)",
    )


def _add_site(command: argparse.ArgumentParser) -> None:
    """Add the options for the scheduler."""
    site = command.add_argument_group("SLURM")
    site.add_argument(
        "--cluster",
        metavar="NAME|FILE",
        help="the nodes' kind (dskd plan): the job is refused if it does not fit into their memory",
    )
    site.add_argument("--partition", help="partition of all jobs")
    site.add_argument(
        "--time", type=_time_limit, metavar="LIMIT", help="limit of one attempt, e.g. 8:00:00"
    )
    site.add_argument(
        "--signal-seconds",
        type=at_least(1),
        default=300,
        metavar="S",
        help="seconds before the time limit at which the run saves; one step and one save must fit"
        " in (default 300)",
    )
    site.add_argument(
        "--environment",
        metavar="FILE",
        help="modules and variables of the site (default slurm/environment.sh)",
    )
    site.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="further option of sbatch, e.g. account=nlp, or exclusive (may be given several"
        " times)",
    )


def _time_limit(text: str) -> str:
    """Return a time limit as SLURM takes it. Raises ArgumentTypeError for any other text."""
    if not TIME_LIMIT.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no limit of SLURM: write HOURS:MINUTES:SECONDS, DAYS-HOURS, or MINUTES"
        )
    return text


def _stages(text: str) -> tuple[str, ...]:
    """Return the stages of --what in their order. Raises ArgumentTypeError for an unknown one."""
    names = text.split(",")
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"unknown stage {unknown[0]!r}: choose from {', '.join(STAGES)}"
        )
    return tuple(stage for stage in STAGES if stage in names)


def run(args: argparse.Namespace) -> int:
    """Check the run, write its scripts, and print or submit them. Returns the exit code."""
    from dskd_ds.plan.refuse import refuse_on_cluster
    from dskd_ds.runtime.arguments import spec_of

    spec = spec_of(args)
    if args.cluster:  # what the nodes have is unknown here otherwise
        refuse_on_cluster(spec, args.cluster, args.force)

    from dskd_ds.commands.data import check_packable
    from dskd_ds.commands.submit_jobs import Submission
    from dskd_ds.commands.teach import check_source
    from dskd_ds.models.named import RunModels
    from dskd_ds.observe.attempts import attempts_dir
    from dskd_ds.plan.preflight import preflight
    from dskd_ds.runtime import slurm
    from dskd_ds.runtime.console import quiet_progress
    from dskd_ds.student.terms.senses import check_term_dictionaries

    quiet_progress()
    submission = Submission(spec, args)
    jobs = submission.jobs()
    if added := submission.added_settings():
        print(f"set for the training: {', '.join(added)}", file=sys.stderr)
    if "pack" in args.what:
        check_packable(spec)
    if "teach" in args.what:
        check_source(spec)
    # What this submission builds or packs is not there yet.
    reads = "train" in args.what or "teach" in args.what
    models = RunModels.of(spec)
    preflight(
        spec,
        models,
        with_senses=reads and "senses" not in args.what,
        with_packed=reads and "pack" not in args.what,
    )
    if reads and "senses" in args.what:  # the job builds no other dictionary
        check_term_dictionaries(spec, models, built_later=spec.senses.dictionary)
    if args.dry_run:
        print(*(job.script for job in jobs), sep="\n", end="")
        return 0
    slurm.require_slurm()
    _refuse_a_running_job(Path(spec.run_dir))
    # sbatch writes its output there, and does not make the folder.
    attempts_dir(Path(spec.run_dir)).mkdir(parents=True, exist_ok=True)
    submitted = time.time()
    job_ids = _submit_all(jobs)
    if job_ids:
        # `dskd status` then says that the run is queued, and what submits it again.
        argv = ["dskd", *sys.argv[1:]]
        record_submission(Path(spec.run_dir), job_ids, argv, submitted=submitted)
    print(f"its attempts and logs: {spec.run_dir}/attempts/", file=sys.stderr)
    return 0


def _submit_all(jobs: list[Job]) -> list[str]:
    """Submit jobs that depend on each other and print their numbers; all or none.

    Returns the numbers of those that train the run. Raises InputError if SLURM refuses one;
    those that it has accepted are cancelled.
    """
    from dskd_ds.runtime import slurm

    in_sequence: list[str] = []
    training: list[str] = []
    submitted: list[str] = []
    try:
        for job in jobs:
            dependency = f"{job.after}:{in_sequence[-1]}" if in_sequence else ""
            job_id = slurm.submit(job.script, name=job.template, dependency=dependency)
            submitted.append(job_id)
            if not job.is_beside:
                in_sequence.append(job_id)
            if job.title == "train":
                training.append(job_id)
            suffix = f", after {dependency}" if dependency else ""
            print(f"{job.title}: job {job_id}{suffix}", flush=True)
    except InputError:
        slurm.cancel(submitted)
        raise
    return training


def _refuse_a_running_job(run_dir: Path) -> None:
    """Raise InputError if a job of this run is waiting or running."""
    from dskd_ds.observe.attempts import read_attempts
    from dskd_ds.observe.run_files import SUBMISSION_FILE, Submission, read_record
    from dskd_ds.runtime.slurm import read_job

    # A job that waits for its first start has no attempt yet.
    submission = read_record(run_dir / SUBMISSION_FILE, Submission)
    job_ids = [attempt.job_id for attempt in read_attempts(run_dir)]
    job_ids += submission.job_ids if submission else []
    for job_id in dict.fromkeys(job_ids):
        state = read_job(job_id).state if job_id else ""
        if state in ("PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "CONFIGURING"):
            does = "waits to train" if state == "PENDING" else "is training"
            raise InputError(
                f"{run_dir}: job {job_id} {does} this run ({state}).\n"
                f"  wait for it, or end it: scancel {job_id}"
            )

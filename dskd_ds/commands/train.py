"""`dskd train`: checks a spec, cuts its student, and launches its ranks on this machine."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from dskd_ds.errors import ExitCode
from dskd_ds.observe.run_files import COMMAND_VARIABLE, record_end
from dskd_ds.runtime.arguments import (
    Commands,
    add_force,
    at_least,
    override_argv,
    spec_command,
)
from dskd_ds.spec import load_spec

TEXT = """\
Check the spec, cut the student from the teacher (unless [student] model names one), and start
all ranks on this machine with the deepspeed launcher; its command line is printed. If a run was
stopped, the same command resumes it from its newest checkpoint ([checkpoint] every_minutes and
every_steps). SIGTERM, SIGUSR1 and Ctrl-C are passed on to the students; a second Ctrl-C kills all
ranks.

[senses] dictionary must exist (dskd senses build), unless [loss] sense_weight = 0. The run
directory (run_dir in the spec) gets metrics.jsonl, tensorboard/, checkpoints/ and, at the end,
student/: the trained model as a Hugging Face folder.

On a cluster, start dskd_ds/train.py with deepspeed, mpirun, torchrun or srun instead."""


def add_command(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register `dskd train`."""
    command = spec_command(
        commands,
        "train",
        "train a student on this machine; the same command resumes a stopped run",
        description=TEXT,
    )
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything; print how much the teacher will send, and the deepspeed line",
    )
    add_force(command)
    command.add_argument(
        "--restarts",
        type=at_least(0),
        default=0,
        metavar="N",
        help="start the ranks again, at most N times, after exit code 3 or a crash (default 0)",
    )
    command.set_defaults(
        command=lambda args: train(
            args.spec,
            args.set,
            dry_run=args.dry_run,
            restarts=args.restarts,
            is_forced=args.force,
        )
    )


def train(
    spec_file: str,
    overrides: Sequence[str],
    dry_run: bool = False,
    restarts: int = 0,
    is_forced: bool = False,
) -> int:
    """Check the spec, cut the student and launch the ranks; returns the launch's exit code.

    dry_run: only check and print. restarts: see `launch.run_training`. is_forced: start it although
    it will not fit into memory.
    Raises InputError if the spec cannot run.
    """
    from dskd_ds.plan.refuse import refuse_what_cannot_fit

    spec = load_spec(spec_file, overrides)
    # Before torch is loaded: a spec that cannot fit is refused within a second.
    refuse_what_cannot_fit(spec, is_forced)

    from dskd_ds.costs.traffic import plan_line
    from dskd_ds.data.packed import check_packed
    from dskd_ds.models.named import RunModels
    from dskd_ds.plan.further_teachers import further_lines
    from dskd_ds.plan.kept_signal import kept_line
    from dskd_ds.plan.preflight import preflight
    from dskd_ds.plan.repair_traffic import repair_line
    from dskd_ds.runtime import launch
    from dskd_ds.runtime.console import quiet_progress
    from dskd_ds.student.depth import student_init
    from dskd_ds.student.run_lock import refuse_a_held_run

    quiet_progress()
    models = RunModels.of(spec)
    preflight(spec, models)
    print(plan_line(spec, models.teacher))
    for line in further_lines(spec):
        print(line)
    if (repair := repair_line(spec, models.teacher)) is not None:
        print(repair)
    if (kept := kept_line(spec, models)) is not None:
        print(kept)
    if spec.data.heldout_fraction and not spec.data.heldout:
        share = f"{spec.data.heldout_fraction:.1%}"
        print(f"held out: {share} of the training documents ([data] heldout_fraction), by a hash")
    if dry_run:
        packed_line = check_packed(spec.data, models.teacher.tokenizer, models.max_tokens)
        if packed_line:
            print(packed_line)
        print(*launch.train_command(spec_file, overrides, spec))
        return 0
    refuse_a_held_run(Path(spec.run_dir))
    # Cut here, once, so that a teacher that cannot be cut is reported before any rank starts.
    student_init(spec, models)
    # The students write it into the run directory, where `dskd status` finds it.
    os.environ.setdefault(COMMAND_VARIABLE, command_line(spec_file, overrides, restarts))
    end = launch.run_training(spec_file, overrides, spec, restarts)
    if end.code != ExitCode.DONE:
        message = end.reason()
        record_end(Path(spec.run_dir), "launch", 0, exit_code=end.code, message=message)
    return end.code


def command_line(spec_file: str, overrides: Sequence[str], restarts: int) -> str:
    """Return the `dskd train` command with these arguments, for the shell."""
    argv = ["dskd", "train", spec_file, *override_argv(overrides)]
    if restarts:
        argv += ["--restarts", str(restarts)]
    return shlex.join(argv)

"""`python -m dskd_ds.teacher --spec FILE.toml`: a teacher as a job step of its own.

With [topology] ranks_per_teacher = N, start it on N ranks, or on a multiple of N for several
teachers: `torchrun --nproc_per_node N -m dskd_ds.teacher --spec FILE.toml`, or in the same way with
mpirun, `srun --kill-on-bad-exit` or `deepspeed --num_gpus N --module dskd_ds.teacher`. Several
teachers of one launch end together if one fails.

With [[teachers]], `--teacher NAME` says which of the run's teachers it is.

It may join and leave a running training at any time. After SIGTERM it says goodbye to the students
and ends with exit code 143, so that its requests go to another teacher at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from dskd_ds.errors import InputError
from dskd_ds.models.named import RunModels
from dskd_ds.models.routed import served_teacher, teacher_of_name
from dskd_ds.observe.ends import recorded_end
from dskd_ds.runtime.arguments import add_overrides, exit_code_of, spec_of
from dskd_ds.runtime.console import outlive_console, quiet_libraries, quiet_progress
from dskd_ds.runtime.launchers import local_rank, read_launch_of_teachers
from dskd_ds.runtime.supervise import SIGNAL_CODE_BASE
from dskd_ds.runtime.topology import role_environment, teacher_of_step
from dskd_ds.spec import RunSpec
from dskd_ds.spec.teachers import MAIN_TEACHER


def main() -> int:
    """Parse the command line, serve, and return the exit code."""
    quiet_libraries()
    # It names the device if a node has several teachers.
    os.environ["LOCAL_RANK"] = local_rank(os.environ)
    parser = argparse.ArgumentParser(
        prog="python -m dskd_ds.teacher",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--spec", required=True, help="the run's TOML spec, the same as the students'"
    )
    add_overrides(parser)
    parser.add_argument(
        "--replica",
        type=int,
        help="a number that names this teacher in messages; of the first one, if the launch has"
        " several teachers (default 0)",
    )
    parser.add_argument(
        "--teacher",
        metavar="NAME",
        help="with [[teachers]]: which teacher to serve as, `main` for [teacher]; without it the"
        " number decides: first the replicas of [[teachers]] in their order, then [teacher]",
    )
    parser.add_argument("--local_rank", type=int, help="set by the deepspeed launcher; not used")
    args = parser.parse_args()
    return exit_code_of(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Serve the spec's run until all students have said goodbye. Raises DskdError."""
    spec = spec_of(args)
    if spec.teacher.source == "cache":
        raise InputError(
            '[teacher] source = "cache", but such a run asks no teacher.\n'
            '  set [teacher] source = "cache_or_live" in its spec, or start no teacher.'
        )
    check_teacher_name(spec, args.teacher, args.replica)
    launch = read_launch_of_teachers(os.environ)
    role = teacher_of_step(launch, spec.topology, args.replica or 0)
    os.environ.update(role_environment(role))
    replica, place = role.rank, role.teacher_rank
    # These import torch, which takes seconds: an invalid spec is reported before.
    from dskd_ds.models.tensor_parallel import check_divisible
    from dskd_ds.runtime.devices import use_threads
    from dskd_ds.teacher.service import serve

    quiet_progress()
    use_threads(spec.topology.threads_per_rank)
    signal.signal(signal.SIGTERM, _leave)
    with recorded_end(Path(spec.run_dir), "teacher", replica):
        models = RunModels.of(spec)
        if args.teacher is None:
            served = served_teacher(spec, models, replica)
        else:
            served = teacher_of_name(spec, models, args.teacher)
        own = served.models
        check_divisible(own.teacher, place.size, own.shared_vocab_size)
        serve(served, replica, place=place, step=role if role.size > 1 else None)


def check_teacher_name(spec: RunSpec, name: str | None, replica: int | None) -> None:
    """Raise InputError if it is not said which of several teachers this is, or if none is it."""
    names = [MAIN_TEACHER, *(teacher.name for teacher in spec.teachers)]
    if name is not None and name not in names:
        raise InputError(
            f"--teacher {name}: [[teachers]] has no teacher of this name.\n"
            f"  use one of: {', '.join(names)}."
        )
    if spec.teachers and name is None and replica is None:
        raise InputError(
            "[[teachers]] names several teachers, and this one must know which it is.\n"
            f"  add --teacher NAME, one of: {', '.join(names)}."
        )


def _leave(number: int, _frame: FrameType | None) -> None:
    """Handle a signal: end this process, which closes the link with a goodbye.

    A second signal ends it at once.
    """
    signal.signal(number, signal.SIG_DFL)
    sys.exit(SIGNAL_CODE_BASE + number)


if __name__ == "__main__":
    outlive_console()
    sys.exit(main())

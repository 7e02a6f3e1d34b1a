"""The entry of every rank:  deepspeed --num_gpus 3 dskd_ds/train.py --spec FILE.toml

Options: --set section.key=value, as often as needed. Also runs under torchrun, mpirun and srun.
It reads the spec, finds this rank's role, gives the role its own torch world, and becomes a
student (dskd_ds/student/session.py) or a teacher (dskd_ds/teacher/service.py).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# Python puts the folder of a script first on sys.path; our packages are found as dskd_ds.* only.
SCRIPT_FOLDER = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != SCRIPT_FOLDER]

from dskd_ds.errors import DskdError, ExitCode  # noqa: E402
from dskd_ds.models.named import RunModels  # noqa: E402
from dskd_ds.models.routed import served_teacher  # noqa: E402
from dskd_ds.observe.ends import record_error, recorded_end  # noqa: E402
from dskd_ds.runtime.arguments import add_overrides  # noqa: E402
from dskd_ds.runtime.console import outlive_console, quiet_libraries, quiet_progress  # noqa: E402
from dskd_ds.runtime.launchers import read_launch  # noqa: E402
from dskd_ds.runtime.reporting import report_error  # noqa: E402
from dskd_ds.runtime.topology import Role, assign, role_environment  # noqa: E402
from dskd_ds.spec import RunSpec, load_spec  # noqa: E402

RANK_0_FIRST_SECONDS = 20.0
"""Delay so that rank 0 reports an error in the input once, for all ranks."""


def main(argv: list[str] | None = None) -> int:
    """Run one rank and return its exit code."""
    args = parse_arguments(argv)
    quiet_libraries()
    rank = 0
    role: Role | None = None
    # Errors before the run are mostly the same on all ranks, so rank 0 reports them first. Errors
    # of the run are this rank's own.
    try:
        launch = read_launch(os.environ)
        rank = launch.rank
        spec = load_spec(args.spec, args.set)
        role = assign(launch, spec.topology)
        models = RunModels.of(spec)
        prepare(spec, models, role)
    except DskdError as error:
        if role and role.kind == "student" and role.rank == 0:
            record_error(Path(spec.run_dir), role.kind, role.rank, error)
        return report_error(error, rank, RANK_0_FIRST_SECONDS, args.spec)
    try:
        with recorded_end(Path(spec.run_dir), role.kind, role.rank):
            run(spec, models, role)
    except DskdError as error:
        return report_error(error, spec_file=args.spec)
    return int(ExitCode.DONE)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spec", required=True, help="the run's TOML spec")
    add_overrides(parser)
    parser.add_argument(
        "--local_rank", type=int, help="set by the deepspeed launcher; LOCAL_RANK is used instead"
    )
    return parser.parse_args(argv)


def prepare(spec: RunSpec, models: RunModels, role: Role) -> None:
    """Set the environment of the role's torch world, then run the checks that need no other rank.

    Raises InputError, also on teachers if [link] address cannot work for the students: a teacher
    would otherwise wait for them until its limit.
    """
    os.environ.update(role_environment(role))
    # These import torch and transformers, so the environment must be set before.
    from dskd_ds.link.address import listen_address
    from dskd_ds.plan.preflight import preflight
    from dskd_ds.runtime.devices import use_threads

    quiet_progress()
    use_threads(spec.topology.threads_per_rank)
    if spec.teacher.source != "cache":  # such a run has no link
        listen_address(spec.link, role.launch.spans_nodes)
    preflight(spec, models)


def run(spec: RunSpec, models: RunModels, role: Role) -> None:
    """Train as a student or serve as a teacher, until the run ends."""
    if role.kind == "teacher":
        from dskd_ds.teacher.service import serve

        served = served_teacher(spec, models, role.rank)
        serve(served, replica=role.rank, role=role, place=role.teacher_rank)
    else:
        from dskd_ds.student.session import train

        train(spec, models, role)


if __name__ == "__main__":
    outlive_console()
    sys.exit(main())

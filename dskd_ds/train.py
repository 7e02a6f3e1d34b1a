"""The entry of every rank:  deepspeed --num_gpus 3 dskd_ds/train.py --spec FILE.toml [--set section.key=value ...]

Also under torchrun, mpirun and srun. Reads the spec, finds this rank's role, gives it a torch world of its own, and becomes a
student (dskd_ds/student/loop.py) or a teacher (dskd_ds/teacher/service.py).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

# Started as a script, this file's own folder comes first on sys.path; the package's parts are to be found as dskd_ds.* only.
sys.path[:] = [
    entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent
]

from dskd_ds.errors import DskdError  # noqa: E402
from dskd_ds.models.named import RunModels  # noqa: E402
from dskd_ds.runtime.arguments import add_overrides  # noqa: E402
from dskd_ds.runtime.console import quiet_libraries, quiet_progress  # noqa: E402
from dskd_ds.runtime.topology import Role, assign, read_launch, role_environment  # noqa: E402
from dskd_ds.spec import RunSpec, load_spec  # noqa: E402

FIRST_RANK_SPEAKS_SECONDS = 20.0
"""How long other ranks leave the word to rank 0, which says it for all where all found the same thing wrong."""


def main(argv: list[str] | None = None) -> int:
    """One rank, from its arguments to its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spec", required=True, help="the run's TOML spec")
    add_overrides(parser)
    parser.add_argument(
        "--local_rank", type=int, help="given by the deepspeed launcher; LOCAL_RANK says the same"
    )
    args = parser.parse_args(argv)
    quiet_libraries()
    rank = 0
    try:
        launch = read_launch(os.environ)
        rank = launch.rank
        spec = load_spec(args.spec, args.set)
        role = assign(launch, spec.topology)
        models = RunModels.of(spec)
        prepare(spec, models, role)
    except (
        DskdError
    ) as error:  # mostly alike on every rank: the first one says it, and its exit ends the launch
        if rank > 0:
            time.sleep(
                FIRST_RANK_SPEAKS_SECONDS
            )  # who is still here then met it alone, or on its node: a path missing there
        print(error, file=sys.stderr, flush=True)
        return int(error.exit_code)
    try:
        run(spec, models, role)
    except DskdError as error:
        if str(error):
            print(error, file=sys.stderr, flush=True)
        return int(error.exit_code)
    return 0


def prepare(spec: RunSpec, models: RunModels, role: Role) -> None:
    """The role's own torch world, then the checks that need no other rank."""
    os.environ.update(role_environment(role))
    from dskd_ds.plan.preflight import preflight
    from dskd_ds.runtime.devices import use_threads

    quiet_progress()
    use_threads(spec.topology.threads_per_rank)
    preflight(spec, models)


def run(spec: RunSpec, models: RunModels, role: Role) -> None:
    """Be what the role says."""
    if role.kind == "teacher":
        from dskd_ds.teacher.service import serve

        serve(spec, models, role.rank, role)
    else:
        from dskd_ds.student.loop import train

        train(spec, models, role)


if __name__ == "__main__":
    sys.exit(main())

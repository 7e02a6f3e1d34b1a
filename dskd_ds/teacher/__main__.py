"""`python -m dskd_ds.teacher --spec FILE.toml`: a teacher as a job step of its own; it may join and leave a running training."""

from __future__ import annotations

import argparse
import os
import sys

from dskd_ds.models.named import RunModels
from dskd_ds.runtime.arguments import add_overrides, exit_code_of, spec_of
from dskd_ds.runtime.console import quiet_libraries, quiet_progress


def main() -> int:
    """Parse, serve, and say in one line what went wrong, if anything did."""
    quiet_libraries()
    step_rank = (
        os.environ.get("SLURM_LOCALID") or os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK") or "0"
    )
    os.environ.setdefault(
        "LOCAL_RANK", step_rank
    )  # names the device, where several teachers are on a node
    parser = argparse.ArgumentParser(prog="python -m dskd_ds.teacher", description=__doc__)
    parser.add_argument(
        "--spec", required=True, help="the run's TOML spec, the same that the students have"
    )
    add_overrides(parser)
    parser.add_argument(
        "--replica", type=int, default=0, help="a number for messages, where several teachers run"
    )
    args = parser.parse_args()
    return exit_code_of(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Serve the spec's run."""
    spec = spec_of(args)
    from dskd_ds.runtime.devices import (
        use_threads,  # with what it imports, only now: a wrong spec is refused at once
    )
    from dskd_ds.teacher.service import serve

    quiet_progress()
    use_threads(spec.topology.threads_per_rank)
    serve(spec, RunModels.of(spec), args.replica)


if __name__ == "__main__":
    sys.exit(main())

"""Have the teacher end conversations: `mpirun -n R python -m dskd_ds.commands.continue_conversations --spec FILE.toml ...`

`dskd data continue` starts it; data/continuations.py does the work.
"""

from __future__ import annotations

import argparse
import sys

from dskd_ds.data.continuations import write_continuations
from dskd_ds.data.continue_options import add_options, settings_of
from dskd_ds.runtime.arguments import add_overrides
from dskd_ds.runtime.console import quiet_progress
from dskd_ds.runtime.devices import use_threads
from dskd_ds.runtime.mpi import Communicator, run_or_abort_all_ranks
from dskd_ds.spec import load_spec


def main() -> int:
    """Parse, write, say in one line what went wrong, if anything did."""
    quiet_progress()
    parser = argparse.ArgumentParser(
        prog="python -m dskd_ds.commands.continue_conversations",
        description=__doc__.splitlines()[0],
    )
    parser.add_argument("--spec", required=True, help="the run's TOML spec")
    add_overrides(parser)
    add_options(parser)
    args = parser.parse_args()
    return run_or_abort_all_ranks(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """One rank's part."""
    comm = Communicator()
    spec = load_spec(args.spec, args.set)
    use_threads(spec.topology.threads_per_rank)
    write_continuations(
        spec, args.output, args.input, settings_of(args), comm.rank, comm.size, comm.barrier
    )


if __name__ == "__main__":
    sys.exit(main())

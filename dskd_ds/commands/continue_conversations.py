"""Lets the teacher write the last answer of conversations, on MPI ranks.

`dskd data continue` starts it; data/continuations.py does the work.
"""

from __future__ import annotations

import argparse
import sys

from dskd_ds.data.continuations import write_continuations
from dskd_ds.data.continue_options import add_options, recipe_of
from dskd_ds.models.named import NamedModel
from dskd_ds.runtime.arguments import rank_parser
from dskd_ds.runtime.console import quiet_progress
from dskd_ds.runtime.devices import use_threads
from dskd_ds.runtime.mpi import Communicator, run_or_abort_all_ranks
from dskd_ds.spec import load_spec

TEXT = """\
Let the teacher write the last answer of conversations:

  mpirun -n R python -m dskd_ds.commands.continue_conversations --spec FILE.toml --output FILE.jsonl

The result is the same for any number of ranks."""


def main() -> int:
    """Parse the arguments and do this rank's share; returns the exit code."""
    quiet_progress()
    parser = rank_parser("dskd_ds.commands.continue_conversations", TEXT)
    add_options(parser)
    args = parser.parse_args()
    return run_or_abort_all_ranks(lambda: run(args), args.spec)


def run(args: argparse.Namespace) -> None:
    """Write this rank's share of the continuations."""
    comm = Communicator()
    spec = load_spec(args.spec, args.set)
    use_threads(spec.topology.threads_per_rank)
    write_continuations(
        spec,
        NamedModel.of_teacher(spec.teacher),
        output=args.output,
        inputs=args.input,
        recipe=recipe_of(args, spec),
        comm=comm,
    )


if __name__ == "__main__":
    sys.exit(main())

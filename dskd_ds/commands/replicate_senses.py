"""Copies a spec's dictionary and index to every node, ahead of a job."""

from __future__ import annotations

import sys

from dskd_ds.runtime.arguments import rank_parser
from dskd_ds.runtime.mpi import run_or_abort_all_ranks
from dskd_ds.senses.index.replicate import replicate
from dskd_ds.spec import load_spec

TEXT = """\
Copy a spec's dictionary and index to [senses] local_dir of every node:

  mpirun python -m dskd_ds.commands.replicate_senses --spec FILE.toml"""


def main() -> int:
    """Parse the arguments and copy; a failure on one rank ends all ranks. Returns the exit code."""
    args = rank_parser("dskd_ds.commands.replicate_senses", TEXT).parse_args()
    return run_or_abort_all_ranks(lambda: replicate(load_spec(args.spec, args.set)))


if __name__ == "__main__":
    sys.exit(main())

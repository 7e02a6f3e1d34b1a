"""Copy a spec's dictionary and index to every node: `mpirun python -m dskd_ds.commands.replicate_senses --spec FILE.toml`."""

from __future__ import annotations

import argparse
import sys

from dskd_ds.runtime.arguments import add_overrides
from dskd_ds.runtime.mpi import run_or_abort_all_ranks
from dskd_ds.senses.index.replicate import replicate
from dskd_ds.spec import load_spec


def main() -> int:
    """Parse, replicate; a failure on one rank ends all."""
    parser = argparse.ArgumentParser(
        prog="mpirun python -m dskd_ds.commands.replicate_senses",
        description="Copy a spec's dictionary and index to [senses] local_dir of every node.",
    )
    parser.add_argument("--spec", required=True, help="the run's TOML spec")
    add_overrides(parser)
    args = parser.parse_args()
    return run_or_abort_all_ranks(lambda: replicate(load_spec(args.spec, args.set)))


if __name__ == "__main__":
    sys.exit(main())

"""Build or refresh the sense dictionary and its index: `mpirun -n R python -m dskd_ds.commands.build_senses --spec FILE.toml [--refresh]`.

`dskd senses build` and `dskd senses refresh` start it; senses/build/build.py does the work.
"""

from __future__ import annotations

import argparse
import sys

from dskd_ds.plan.preflight import preflight
from dskd_ds.runtime.arguments import add_overrides
from dskd_ds.runtime.console import quiet_progress
from dskd_ds.runtime.devices import use_threads
from dskd_ds.runtime.mpi import Communicator, run_or_abort_all_ranks
from dskd_ds.senses.build.build import build, refresh
from dskd_ds.spec import load_spec


def main() -> int:
    """Parse, build, print what was built."""
    quiet_progress()
    parser = argparse.ArgumentParser(
        prog="python -m dskd_ds.commands.build_senses", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--spec", required=True, help="the run's TOML spec")
    add_overrides(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--force", action="store_true", help="build anew even if the dictionary is there"
    )
    what.add_argument(
        "--refresh",
        action="store_true",
        help="take the spec's corpus into the dictionary that is there",
    )
    args = parser.parse_args()
    return run_or_abort_all_ranks(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """One rank's part."""
    comm = Communicator()
    spec = load_spec(args.spec, args.set)
    preflight(spec, with_senses=False)
    use_threads(spec.topology.threads_per_rank)
    facts = refresh(spec, comm) if args.refresh else build(spec, comm, args.force)
    if facts:
        print(
            f"{spec.senses.dictionary}: {facts['num_rows']} senses of {facts['num_tokens']} tokens and {facts['num_spans']} spans,"
            f" {facts['num_related_tokens']} tokens with relations; {facts['num_vectors']} vectors"
            f" from {len(facts['history'])} {'corpora' if len(facts['history']) > 1 else 'corpus'}."
        )


if __name__ == "__main__":
    sys.exit(main())

"""Builds or refreshes a sense dictionary and its index on MPI ranks.

`dskd senses build` and `dskd senses refresh` start it; senses/build/build.py does the work.
"""

from __future__ import annotations

import argparse
import sys

from dskd_ds.models.named import RunModels
from dskd_ds.plan.preflight import preflight
from dskd_ds.plan.whole_teacher import check_whole_teacher
from dskd_ds.runtime.arguments import rank_parser
from dskd_ds.runtime.console import quiet_progress
from dskd_ds.runtime.devices import use_threads
from dskd_ds.runtime.mpi import Communicator, run_or_abort_all_ranks
from dskd_ds.senses.build.build import build, refresh
from dskd_ds.senses.dictionary.facts import Facts
from dskd_ds.spec import load_spec

TEXT = """\
Build or refresh the sense dictionary of a spec and its index:

  mpirun -n R python -m dskd_ds.commands.build_senses --spec FILE.toml [--refresh]

The result is the same for any number of ranks."""


def main() -> int:
    """Parse the arguments and do this rank's share; returns the exit code."""
    quiet_progress()
    parser = rank_parser("dskd_ds.commands.build_senses", TEXT)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--force", action="store_true", help="replace an existing dictionary")
    mode.add_argument(
        "--refresh",
        action="store_true",
        help="add the spec's corpus to the existing dictionary",
    )
    args = parser.parse_args()
    return run_or_abort_all_ranks(lambda: run(args), args.spec)


def run(args: argparse.Namespace) -> None:
    """Do this rank's share of the build; one rank prints what was built."""
    comm = Communicator()
    spec = load_spec(args.spec, args.set)
    check_whole_teacher(spec, "dskd senses build")
    models = RunModels.of(spec)
    preflight(spec, models, with_senses=False)
    use_threads(spec.topology.threads_per_rank)
    if args.refresh:
        facts = refresh(spec, models.teacher, comm)
    else:
        facts = build(spec, models.teacher, comm, force=args.force)
    if facts:
        print(f"{spec.senses.dictionary}: {summary(facts)}")


def summary(facts: Facts) -> str:
    """Return one sentence about a dictionary. facts: of its manifest."""
    num_corpora = len(facts["history"])
    corpora = f"{num_corpora} {'corpus' if num_corpora == 1 else 'corpora'}"
    return (
        f"{facts['num_rows']} senses of {facts['num_tokens']} tokens"
        f" and {facts['num_spans']} spans,"
        f" {facts['num_related_tokens']} tokens with relations;"
        f" {facts['num_vectors']} vectors from {corpora}."
    )


if __name__ == "__main__":
    sys.exit(main())

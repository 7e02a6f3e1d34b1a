"""Packs the training text of a run into [data] packed, on MPI ranks.

`dskd data pack` starts it; data/pack_job.py does the work.
"""

from __future__ import annotations

import sys

from dskd_ds.data.pack_job import PackJob
from dskd_ds.data.text_parts import text_parts
from dskd_ds.models.named import RunModels
from dskd_ds.runtime.arguments import rank_parser
from dskd_ds.runtime.console import quiet_libraries, quiet_progress
from dskd_ds.runtime.mpi import Communicator, run_or_abort_all_ranks
from dskd_ds.spec import RunSpec, load_spec

TEXT = """\
Pack the training text of a run into [data] packed:

  mpirun -n R python -m dskd_ds.commands.pack_text --spec FILE.toml

The result is the same for any number of ranks."""


def main() -> int:
    """Parse the arguments and do this rank's share; returns the exit code."""
    quiet_libraries()
    quiet_progress()
    args = rank_parser("dskd_ds.commands.pack_text", TEXT).parse_args()
    return run_or_abort_all_ranks(lambda: run(load_spec(args.spec, args.set)), args.spec)


def run(spec: RunSpec) -> None:
    """Pack this rank's share of every part of the text."""
    comm = Communicator()
    models = RunModels.of(spec)
    for part in text_parts(spec.data):
        PackJob(part, models.teacher.tokenizer, models.max_tokens, comm).run()


if __name__ == "__main__":
    sys.exit(main())

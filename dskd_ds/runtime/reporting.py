"""How a rank reports an error that ends it."""

from __future__ import annotations

import sys
import time

from dskd_ds.errors import DskdError


def report_error(error: DskdError, rank: int = 0, rank_0_first_seconds: float = 0.0) -> int:
    """Print an error to stderr, without a traceback, and return its exit code.

    Most errors are the same on all ranks, and the exit of rank 0 ends the launch. So other ranks
    wait `rank_0_first_seconds` before they print: rank 0 then reports a shared error once. A rank
    that is still alive after the wait has an error of its own, for example a path that is missing
    on its node only.
    """
    if rank > 0:
        time.sleep(rank_0_first_seconds)
    if str(error):
        print(error, file=sys.stderr, flush=True)
    return int(error.exit_code)

"""How a rank reports an error that ends it."""

from __future__ import annotations

import sys
import time

from dskd_ds.errors import DskdError


def message_of(error: DskdError, spec_file: str | None) -> str:
    """Return an error's message; one that begins with a section of the spec gets the spec's file.

    What finds such an error only has the spec, not the name of its file.
    """
    text = str(error)
    return f"{spec_file}: {text}" if spec_file and text.startswith("[") else text


def report_error(
    error: DskdError,
    rank: int = 0,
    rank_0_first_seconds: float = 0.0,
    spec_file: str | None = None,
) -> int:
    """Print an error to stderr, without a traceback, and return its exit code.

    spec_file: the run's spec, for errors in it that are found after it was loaded.

    Most errors are the same on all ranks, and the exit of rank 0 ends the launch. So other ranks
    wait `rank_0_first_seconds` before they print: rank 0 then reports a shared error once. A rank
    that is still alive after the wait has an error of its own, for example a path that is missing
    on its node only.
    """
    if rank > 0:
        time.sleep(rank_0_first_seconds)
    if str(error):
        print(message_of(error, spec_file), file=sys.stderr, flush=True)
    return int(error.exit_code)

"""Records how a process ends, so that `dskd status` can say what a run died of."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dskd_ds.errors import DskdError, ExitCode, RunInUseError
from dskd_ds.observe.run_files import RoleName, record_end


@contextmanager
def recorded_end(run_dir: Path, role: RoleName, rank: int) -> Iterator[None]:
    """Record the error that leaves the block, and the success of student 0; errors go on.

    Ranks that end silently because of another rank leave no record: that rank has one. Nor does a
    launch that was refused because another one is using the run directory.
    """
    try:
        yield
    except Exception as error:
        record_error(run_dir, role, rank, error)
        raise
    if role == "student" and rank == 0:
        record_end(run_dir, role, rank, exit_code=int(ExitCode.DONE), message="")


def record_error(run_dir: Path, role: RoleName, rank: int, error: Exception) -> None:
    """Record the error that ends this process, if it has something to say.

    Nothing is recorded if the run directory does not exist: an invalid input creates no folders.
    """
    if isinstance(error, RunInUseError) or not run_dir.is_dir():
        return
    if not isinstance(error, DskdError):
        place = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"
        record_end(run_dir, role, rank, exit_code=int(ExitCode.FAILED), message=message)
    elif str(error):
        record_end(run_dir, role, rank, exit_code=int(error.exit_code), message=str(error))

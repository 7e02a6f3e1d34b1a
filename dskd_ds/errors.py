"""Errors that are shown to the user, and the exit codes of all processes."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """Exit code of a process; SLURM scripts and tests rely on these numbers."""

    DONE = 0
    FAILED = 1
    WRONG_INPUT = 2
    REQUEUE = 3
    NO_TEACHER = 4


class DskdError(Exception):
    """An error whose message is complete: it is printed without a traceback."""

    exit_code: ExitCode = ExitCode.FAILED


class InputError(DskdError):
    """Something that the user gave is wrong.

    The message names the file, the key, the value, the reason and every way out.
    """

    exit_code = ExitCode.WRONG_INPUT


class NoFormulaError(InputError):
    """A model has no formula of costs, so its memory cannot be predicted. It may run."""


class RunInUseError(InputError):
    """Another launch that lives is using the run directory."""


class NoTeacherError(DskdError):
    """No teacher connected, or all teachers left, within `[link] teacher_wait_seconds`."""

    exit_code = ExitCode.NO_TEACHER


class SaveError(DskdError):
    """A checkpoint could not be written. The earlier ones are intact."""


class RequeueError(DskdError):
    """The run was asked to stop, has saved, and goes on when it is started again."""

    exit_code = ExitCode.REQUEUE


class OtherRankError(DskdError):
    """Another rank ended and printed why; this rank ends with the same exit code, silently."""

    def __init__(self, exit_code: ExitCode) -> None:
        super().__init__("")
        self.exit_code = exit_code


class LinkError(DskdError):
    """A peer sent an invalid message or stopped answering; the error's message names the peer."""


def exit_code_of(error: Exception | None) -> ExitCode:
    """Return the exit code of a process that an error ends; DONE without one."""
    if error is None:
        return ExitCode.DONE
    return error.exit_code if isinstance(error, DskdError) else ExitCode.FAILED

"""The errors a user is meant to read, and the exit codes they end with."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """What a process of this project ends with; SLURM scripts and tests rely on these numbers."""

    DONE = 0
    FAILED = 1
    WRONG_INPUT = 2
    REQUEUE = 3
    NO_TEACHER = 4


class DskdError(Exception):
    """An error whose message is complete in itself: it is printed without a traceback."""

    exit_code: ExitCode = ExitCode.FAILED


class InputError(DskdError):
    """Something the user gave is wrong. The message names file, key, value, reason and every way out."""

    exit_code = ExitCode.WRONG_INPUT


class NoTeacherError(DskdError):
    """No teacher came, or all of them left, and waiting longer was not asked for."""

    exit_code = ExitCode.NO_TEACHER


class OtherRankError(DskdError):
    """Another rank failed and has said why; this one ends alike, without a word of its own."""

    def __init__(self, exit_code: ExitCode) -> None:
        super().__init__("")
        self.exit_code = exit_code


class LinkError(DskdError):
    """A peer sent something that is not a valid message, or stopped answering. The message names the peer."""

"""Names of files that differ per epoch: `{epoch}` in a path stands for the number of the epoch."""

from __future__ import annotations

EPOCH = "{epoch}"
"""What stands in a path for the number of the epoch, counted from 0."""


def of_epoch(path: str, epoch: int) -> str:
    """Return the path of an epoch's file; a path without `{epoch}` is the same for all epochs."""
    return path.replace(EPOCH, str(epoch))

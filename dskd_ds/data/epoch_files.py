"""Names of files that differ per epoch: `{epoch}` in a path stands for the number of the epoch."""

from __future__ import annotations

from pathlib import Path

from dskd_ds.errors import InputError
from dskd_ds.files.output import check_can_write, writing_output
from dskd_ds.spec.data import EPOCH


def of_epoch(path: str, epoch: int) -> str:
    """Return the path of an epoch's file; a path without `{epoch}` is the same for all epochs."""
    return path.replace(EPOCH, str(epoch))


def check_output(output: str, epochs: int) -> None:
    """Make the folder of an output, for files of each epoch.

    Raises InputError if several epochs would be written into one file, or if none can be written.
    """
    if epochs > 1 and EPOCH not in output:
        raise InputError(
            f"--output {output}: there are {epochs} epochs, and each has a file of its own.\n"
            f"  put {EPOCH} into the name, as in chats-{EPOCH}.jsonl."
        )
    first = Path(of_epoch(output, 0))
    with writing_output(first):
        first.parent.mkdir(parents=True, exist_ok=True)
    check_can_write(first)

"""Agrees over all students on whether each of them could write its part of a checkpoint.

A disk can be full, or a folder read-only, on one node only. The rank that meets this must go on to
the collectives of the save, in which the others wait, and tell them there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import deepspeed.comm as dist
import torch

from dskd_ds.errors import SaveError
from dskd_ds.runtime.devices import local_device


class Writes:
    """What this rank could not write of a checkpoint in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._error: Exception | None = None

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Keep the error of a write instead of raising it. Do not call collectives inside.

        Errors of every class are kept: the others wait for this rank, and must learn of each.
        """
        try:
            yield
        except Exception as error:
            self._error = self._error or error

    def raise_on_every_rank(self) -> None:
        """Raise SaveError on all ranks if any of them could not write. A collective call.

        The message is empty on ranks that could write: the others say what happened.
        """
        failed = torch.tensor([int(self._error is not None)], device=local_device())
        dist.all_reduce(failed)
        if not int(failed):
            return
        if self._error is None:
            raise SaveError("")
        raise SaveError(
            f"{self._folder}: this checkpoint cannot be written:"
            f" {type(self._error).__name__}: {self._error}\n"
            "  earlier checkpoints stay. Free space on the disk, or make the folder writable."
        )

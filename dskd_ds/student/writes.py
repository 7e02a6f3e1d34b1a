"""Agrees over all students on whether each of them could write its part of a checkpoint.

A disk can be full, or a folder read-only, on one node only. The rank that meets this must go on to
the collectives of the save, in which the others wait, and tell them afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import deepspeed.comm as dist
import torch

from dskd_ds.errors import SaveError
from dskd_ds.runtime.devices import local_device

DEEPSPEED_WRITES = (("checkpoint_engine", "save"), ("", "_copy_recovery_script"))
"""(attribute of the engine, or "" for itself; method) of all that DeepSpeed's save writes with."""


class Writes:
    """What this rank could not write of a checkpoint in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._error: Exception | None = None

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Keep the error of a write instead of raising it. Do not call collectives inside.

        torch reports a full disk as OSError or RuntimeError, depending on where it notices it.
        """
        try:
            yield
        except (OSError, RuntimeError) as error:
            self._error = self._error or error

    @contextmanager
    def attempt_inside(self, engine: Any) -> Iterator[None]:
        """Keep errors of DeepSpeed's writes, so that this rank takes part in its collectives.

        `save_checkpoint` gathers parameters and enters a barrier after it has written.
        """
        with ExitStack() as restore:
            for owner_name, method_name in DEEPSPEED_WRITES:
                owner = getattr(engine, owner_name) if owner_name else engine
                write = getattr(owner, method_name)
                setattr(owner, method_name, self._attempting(write))
                restore.callback(setattr, owner, method_name, write)
            yield

    def _attempting(self, write: Callable[..., object]) -> Callable[..., None]:
        """Return `write` with its errors kept."""

        def attempt_write(*args: Any, **kwargs: Any) -> None:
            with self.attempt():
                write(*args, **kwargs)

        return attempt_write

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

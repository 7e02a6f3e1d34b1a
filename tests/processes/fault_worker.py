"""One rank of a run in which student 1 meets a fault; the other ranks are ordinary.

fault_worker.py --fault NAME --step N, then the arguments of dskd_ds/train.py

signal: it gets SIGUSR1 twice while it waits for the input of step N (counted from 1).
input: it meets an OSError while it prepares step N.
disk: the disk is full when it saves after step N.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import torch

from dskd_ds.student.feed import Feed
from dskd_ds.train import main

FAULTY_RANK = 1


def no_space(*_args: Any, **_kwargs: Any) -> None:
    """Fail as a write to a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupted(is_stop_wanted: Callable[[], bool]) -> None:
    """Get the signal; then a second one, when the first has been handled."""
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert is_stop_wanted()


def break_feed(fault: str, step: int) -> None:
    """Make the feed meet the fault in a step of the run."""
    next_input, write = Feed.next, torch.save

    def faulty_next(feed: Any, is_stop_wanted: Callable[[], bool]) -> Any:
        # The first of the planned steps is next. The feed counts steps from 0.
        present = feed._next_step - len(feed._planned) + 1
        torch.save = no_space if fault == "disk" and present == step else write
        if present == step and fault == "signal":
            interrupted(is_stop_wanted)
        if present == step and fault == "input":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return next_input(feed, is_stop_wanted)

    Feed.next = faulty_next


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--fault", required=True)
    parser.add_argument("--step", type=int, required=True)
    args, rest = parser.parse_known_args()
    if (os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["RANK"]) == str(FAULTY_RANK):
        break_feed(args.fault, args.step)
    sys.exit(main(rest))

"""One rank of a run in which student 1 meets a fault; the other ranks are ordinary.

fault_worker.py --fault NAME --step N [--num-steps M], then the arguments of dskd_ds/train.py

signal: it gets SIGUSR1 twice while it waits for the input of step N (counted from 1).
input: it meets an OSError while it prepares step N.
plan: it meets an OSError while it reads the prompts of step N, which is on-policy.
disk: the disk is full when it saves after step N.
nan: one element of the gradient of its last hidden state is NaN in step N and the M - 1 after it.
spike: its loss is a hundred times higher in step N and the M - 1 after it.
sleep: it sleeps for ever in the forward pass of step N.
"""

from __future__ import annotations

import argparse
import errno
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from dskd_ds.student import session
from dskd_ds.student.checkpoint import saving
from dskd_ds.student.on_policy import OnPolicyBlocks
from dskd_ds.student.replies.feed import Feed
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


def sleep_for_ever() -> None:
    """Hang, as with a broken device."""
    while True:
        time.sleep(3600)


def break_one(gradient: torch.Tensor) -> torch.Tensor:
    """Return the gradient with one NaN."""
    broken = gradient.clone()
    broken.view(-1)[0] = math.nan
    return broken


def break_forward(fault: str, steps: range) -> None:
    """Make the forward or backward passes of some steps, counted from 1, meet the fault."""
    make_engine, next_input = session.make_engine, Feed.next
    present = 0

    def counting_next(feed: Any, is_stop_wanted: Callable[[], bool]) -> Any:
        nonlocal present
        present = feed._next_step - len(feed._planned) + 1
        return next_input(feed, is_stop_wanted)

    def on_forward(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        if present in steps and fault == "sleep":
            sleep_for_ever()
        if present in steps and fault == "nan":
            output.register_hook(break_one)

    def after_objective(_module: Any, _inputs: Any, output: Any) -> Any:
        loss, sums = output
        return (100 * loss, sums) if present in steps and fault == "spike" else output

    def make_faulty_engine(*args: Any) -> Any:
        engine = make_engine(*args)
        engine.module.objective.register_forward_hook(after_objective)
        engine.module.language_model.base_model.norm.register_forward_hook(on_forward)
        return engine

    Feed.next = counting_next
    session.make_engine = make_faulty_engine


def break_planning(step: int) -> None:
    """Make the reading of an on-policy step's prompts fail."""
    read = OnPolicyBlocks._read_micro_batch

    def faulty_read(blocks: Any, present: int, micro: int) -> Any:
        if present + 1 == step:  # steps count from 0 there
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return read(blocks, present, micro)

    OnPolicyBlocks._read_micro_batch = faulty_read


def break_feed(fault: str, step: int) -> None:
    """Make the feed meet the fault in a step of the run."""
    next_input, write = Feed.next, saving.write_slices

    def faulty_next(feed: Any, is_stop_wanted: Callable[[], bool]) -> Any:
        # The first of the planned steps is next. The feed counts steps from 0.
        present = feed._next_step - len(feed._planned) + 1
        is_full = fault == "disk" and present == step
        saving.write_slices = no_space if is_full else write
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
    parser.add_argument("--num-steps", type=int, default=1)
    args, rest = parser.parse_known_args()
    if (os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["RANK"]) == str(FAULTY_RANK):
        if args.fault in ("nan", "sleep", "spike"):
            break_forward(args.fault, range(args.step, args.step + args.num_steps))
        elif args.fault == "plan":
            break_planning(args.step)
        else:
            break_feed(args.fault, args.step)
    sys.exit(main(rest))

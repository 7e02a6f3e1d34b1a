"""Measures real launches from outside: wall and CPU time of each step, and peak memory.

Every rank is pinned to a core. The launch is the same as a user's; nothing in it is instrumented. A
step ends when its line appears in `metrics.jsonl`, so the time includes all that happens between
two steps.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from dskd_ds.errors import DskdError, InputError
from dskd_ds.observe.metrics import METRICS_FILE
from dskd_ds.runtime.console import child_environment

POLL_SECONDS = 0.01
PIN_EVERY_POLLS = 25
LOG_TAIL_CHARACTERS = 3000
RANK_OPTION = "--local_rank="
"""The launcher starts every rank with this option."""


class BenchError(DskdError):
    """A launch ended before the steps to measure were done."""


@dataclass(frozen=True)
class Step:
    """One optimiser step, seen from outside."""

    seconds: float
    cpu_seconds: float
    """CPU time of the student's process; comparable even if another process uses its core."""


@dataclass(frozen=True)
class Followed:
    """Time and memory of a launch."""

    steps: list[Step]
    """The measured steps, without the first ones, which are dropped."""
    student_bytes: int
    """Peak memory of the student's process without mapped files (heap, stacks, shared memory).

    The dictionary is a mapped file.
    """
    peak_bytes: int
    """Peak memory without mapped files, added over all processes of the launch and its launcher."""


@dataclass(frozen=True)
class Mark:
    """The moment at which a step ended."""

    seconds: float
    cpu_seconds: float
    """CPU time that the student's process had used until then."""


def two_cores() -> tuple[int, int]:
    """Return a core for the student and one for everything else.

    Raises InputError if this process may use only one core.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise InputError(
            f"this process may use one core only ({cores[0]}), "
            "but student and teacher need one each.\n"
            "  run it where two cores are free, or with a wider taskset."
        )
    return cores[0], cores[1]


def follow(
    commands: Sequence[Sequence[str]],
    run_dir: Path,
    num_steps: int,
    dropped: int,
    *,
    pin: bool = True,
    threads: int = 1,
    env: Mapping[str, str | None] | None = None,
) -> Followed:
    """Start `commands`, wait for dropped + num_steps steps, and end them.

    commands: one of them starts local rank 0, the student. run_dir: the folder of `metrics.jsonl`.
    pin: pin the student to one core and everything else to another. threads: OMP_NUM_THREADS.
    env: more environment variables; None unsets one.
    Raises BenchError if a command ends early, InputError if there is no second core.
    """
    with ExitStack() as cleanup:
        cores = cleanup.enter_context(_other_core()) if pin else None
        log = cleanup.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
        variables: dict[str, str | None] = {
            **child_environment(os.environ),
            "OMP_NUM_THREADS": str(threads),
            **(env or {}),
        }
        processes = [cleanup.enter_context(_running(argv, log, variables)) for argv in commands]
        marks = _watch(
            processes,
            metrics=run_dir / METRICS_FILE,
            num_lines=dropped + num_steps,
            cores=cores,
            log=log,
        )
        # Read while the processes run: their records in /proc are gone as soon as they end.
        student_bytes = peak_bytes(_student(processes))
        all_bytes = sum(peak_bytes(member) for process in processes for member in _family(process))
    steps = [
        Step(after.seconds - before.seconds, after.cpu_seconds - before.cpu_seconds)
        for before, after in itertools.pairwise(marks)
    ]
    # n marks enclose n - 1 steps: the first step has no mark at its start and is dropped already.
    return Followed(steps[dropped - 1 :], student_bytes, all_bytes)


def peak_bytes(process: psutil.Process) -> int:
    """Return the kernel's record of a process's peak memory, without the files that it maps now.

    Most of these files are libraries.
    """
    lines = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines if "kB" in line)
    peak, mapped_files = (int(fields[name].split()[0]) for name in ("VmHWM", "RssFile"))
    return (peak - mapped_files) * 1024


def _watch(
    processes: Sequence[subprocess.Popen[str]],
    metrics: Path,
    num_lines: int,
    cores: tuple[int, int] | None,
    log: IO[str],
) -> list[Mark]:
    """Wait for this many lines of `metrics` and return a mark for each.

    cores: those of the student and of everything else; None does not pin.
    Raises BenchError if a process ends.
    """
    marks: list[Mark] = []
    polls = 0
    while len(marks) < num_lines:
        if any(process.poll() is not None for process in processes):
            log.seek(0)
            raise BenchError(
                "a launch ended before the steps to measure were done; the end of its output:\n"
                f"{log.read()[-LOG_TAIL_CHARACTERS:]}"
            )
        # Ranks start at different times, so they are pinned again and again until the first step.
        if cores and not marks and polls % PIN_EVERY_POLLS == 0:
            for process, rank in _ranks(processes).items():
                _pin(process, cores[0] if rank == 0 else cores[1])
        if metrics.is_file() and metrics.read_bytes().count(b"\n") > len(marks):
            times = _student(processes).cpu_times()
            marks.append(Mark(time.monotonic(), times.user + times.system))
        polls += 1
        time.sleep(POLL_SECONDS)
    return marks


def _family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return a command's process and all its descendants."""
    top = psutil.Process(process.pid)
    return [top, *top.children(recursive=True)]


def _ranks(processes: Sequence[subprocess.Popen[str]]) -> dict[psutil.Process, int]:
    """Return the local rank of each running rank.

    A command that is a single process without a rank is a separate teacher and counts as rank 1.
    """
    ranks: dict[psutil.Process, int] = {}
    for process in processes:
        family = _family(process)
        for member in family:
            try:
                argv = member.cmdline()
            except psutil.Error:
                continue  # it has ended
            options = [option for option in argv if option.startswith(RANK_OPTION)]
            if options:
                ranks[member] = int(options[0].removeprefix(RANK_OPTION))
            elif len(family) == 1:
                ranks[member] = 1
    return ranks


def _student(processes: Sequence[subprocess.Popen[str]]) -> psutil.Process:
    """Return the process of local rank 0."""
    return next(process for process, rank in _ranks(processes).items() if rank == 0)


def _pin(process: psutil.Process, core: int) -> None:
    """Pin all threads of a process, and those that they start later, to one core."""
    try:
        for thread in process.threads():
            os.sched_setaffinity(thread.id, {core})
    except (psutil.Error, ProcessLookupError):
        return  # the process has ended; _watch reports it


@contextmanager
def _other_core() -> Iterator[tuple[int, int]]:
    """Keep this process and its new children on the second core until the block ends."""
    before, cores = os.sched_getaffinity(0), two_cores()
    os.sched_setaffinity(0, {cores[1]})
    try:
        yield cores
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _running(
    argv: Sequence[str], log: IO[str], env: Mapping[str, str | None]
) -> Iterator[subprocess.Popen[str]]:
    """Run a command, and end it and all its descendants when the block ends."""
    process = subprocess.Popen(
        argv,
        env={name: value for name, value in env.items() if value is not None},
        stdout=log,
        stderr=log,
        text=True,
    )
    try:
        yield process
    finally:
        # Listed before any of them ends: descendants are found through their parents. They are
        # killed, because a student that gets SIGTERM saves a checkpoint first, which nobody needs.
        family = _family(process) if process.poll() is None else []
        for member in reversed(family):
            with suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family)
        process.wait()

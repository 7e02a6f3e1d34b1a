"""Real launches, followed from outside: every rank pinned to a core, each step's wall and CPU time, the memory at the end.

The launch is the one a user types; nothing in it knows that it is measured. A step counts as done when its line appears in
`metrics.jsonl`, so whatever a loop does between two steps is in the time.
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


class BenchError(DskdError):
    """A launch that was to be measured ended before it had made its steps."""


@dataclass(frozen=True)
class Step:
    """One optimiser step, seen from outside."""

    seconds: float
    cpu_seconds: float
    """CPU time of the student's process: what remains comparable when something else uses its core."""


@dataclass(frozen=True)
class Followed:
    """What a launch took."""

    steps: list[Step]
    """Without the first ones, which are dropped."""
    student_bytes: int
    """Peak of what is not a file (heap, stacks, shared memory) in the student's process; the mapped dictionary is a file."""
    peak_bytes: int
    """The same, added over all processes of the launch, launchers included."""


def two_cores() -> tuple[int, int]:
    """A core for the student and one for everything else. Raises InputError if this process may use only one."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise InputError(
            f"this process may use one core only ({cores[0]}), but student and teacher are to have one each.\n"
            "  run it where two are free, or under a wider taskset."
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
    """Start `commands` (one makes local rank 0, the student), let it make dropped + num_steps steps, and end it.

    run_dir: where `metrics.jsonl` appears. Without `pin` ranks move freely. threads: OMP_NUM_THREADS. env: more variables, None to
    unset one.
    Raises BenchError if a command ends early, InputError for want of a second core.
    """
    with ExitStack() as cleanup:
        cores = cleanup.enter_context(_other_core()) if pin else None
        log = cleanup.enter_context(tempfile.TemporaryFile("w+"))
        variables = (
            child_environment(os.environ) | {"OMP_NUM_THREADS": str(threads)} | dict(env or {})
        )
        processes = [cleanup.enter_context(_running(words, log, variables)) for words in commands]
        marks = _watch(processes, run_dir / METRICS_FILE, dropped + num_steps, cores, log)
        student_bytes = peak_bytes(_student(processes))
        all_bytes = sum(peak_bytes(member) for process in processes for member in _family(process))
    steps = [
        Step(after[0] - before[0], after[1] - before[1])
        for before, after in itertools.pairwise(marks)
    ]
    return Followed(steps[dropped - 1 :], student_bytes, all_bytes)


def peak_bytes(process: psutil.Process) -> int:
    """The kernel's own record of a process's peak, without the files it has mapped now (libraries, mostly)."""
    fields = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        if "kB" in line
    )
    return (int(fields["VmHWM"].split()[0]) - int(fields["RssFile"].split()[0])) * 1024


def _watch(
    processes: Sequence[subprocess.Popen[str]],
    metrics: Path,
    lines: int,
    cores: tuple[int, int] | None,
    log: IO[str],
) -> list[tuple[float, float]]:
    """(time, the student's CPU time) at the moment each line of `metrics` appears."""
    marks: list[tuple[float, float]] = []
    polls = 0
    while len(marks) < lines:
        if any(process.poll() is not None for process in processes):
            log.seek(0)
            raise BenchError(
                f"a launch that was to be measured ended early; its last words:\n{log.read()[-LOG_TAIL_CHARACTERS:]}"
            )
        if cores and not marks and polls % PIN_EVERY_POLLS == 0:
            for process, rank in _ranks(processes).items():
                _pin(process, cores[0] if rank == 0 else cores[1])
        if metrics.is_file() and metrics.read_bytes().count(b"\n") > len(marks):
            times = _student(processes).cpu_times()
            marks.append((time.monotonic(), times.user + times.system))
        polls += 1
        time.sleep(POLL_SECONDS)
    return marks


def _family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """A command's process and all below it."""
    top = psutil.Process(process.pid)
    return [top, *top.children(recursive=True)]


def _ranks(processes: Sequence[subprocess.Popen[str]]) -> dict[psutil.Process, int]:
    """Running ranks -> local rank. A command that is one process without a rank is a teacher of its own and counts as 1."""
    ranks: dict[psutil.Process, int] = {}
    for process in processes:
        family = _family(process)
        for member in family:
            try:
                given = [word for word in member.cmdline() if word.startswith("--local_rank=")]
            except psutil.Error:
                continue
            if given or len(family) == 1:
                ranks[member] = int(given[0].removeprefix("--local_rank=")) if given else 1
    return ranks


def _student(processes: Sequence[subprocess.Popen[str]]) -> psutil.Process:
    return next(process for process, rank in _ranks(processes).items() if rank == 0)


def _pin(process: psutil.Process, core: int) -> None:
    """Keep all threads of a process, and those they will start, on one core."""
    try:
        for thread in process.threads():
            os.sched_setaffinity(thread.id, {core})
    except (psutil.Error, ProcessLookupError):
        return  # it ended meanwhile; the watch will say so


@contextmanager
def _other_core() -> Iterator[tuple[int, int]]:
    """This process, and what it starts, on the second core meanwhile."""
    before, cores = os.sched_getaffinity(0), two_cores()
    os.sched_setaffinity(0, {cores[1]})
    try:
        yield cores
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _running(
    words: Sequence[str], log: IO[str], env: Mapping[str, str | None]
) -> Iterator[subprocess.Popen[str]]:
    """A command, ended with all its children when the block is left."""
    process = subprocess.Popen(
        words,
        env={name: value for name, value in env.items() if value is not None},
        stdout=log,
        stderr=log,
        text=True,
    )
    try:
        yield process
    finally:
        family = _family(process) if process.poll() is None else []
        for member in reversed(family):
            with suppress(psutil.NoSuchProcess):
                member.terminate()
        _, alive = psutil.wait_procs(family, timeout=10)
        for member in alive:
            member.kill()
        process.wait()

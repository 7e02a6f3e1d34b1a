"""Runs the stages of a study as processes of their own: dictionaries, then training and scores.

Each stage is a `dskd` command, which resumes by itself. A run whose result exists is not touched.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from dskd_ds.errors import DskdError, InputError, RequeueError
from dskd_ds.evaluation.heldout import TASK
from dskd_ds.evaluation.items import items_path, read_items
from dskd_ds.evaluation.result import summarise
from dskd_ds.observe.metrics import read_metrics
from dskd_ds.runtime.arguments import override_argv
from dskd_ds.runtime.supervise import start_guard
from dskd_ds.student.depth import INIT_FOLDER
from dskd_ds.student.run_lock import refuse_a_held_run
from dskd_ds.study.results import Result, read_result, write_result
from dskd_ds.study.runs import Run, base_spec, first_of_each_dictionary
from dskd_ds.study.spec import StudySpec

LOGS = "logs"
CUTS = "cuts"
EARLIER_LAUNCH_SECONDS = 180.0
"""How long a run waits for the launch of a study that was killed. Then its training says who holds
the run directory."""


class StageError(DskdError):
    """A stage of a run failed; its log says why."""


@dataclass
class Stages:
    """Starts stages, and ends them all if a signal asks for it."""

    study: StudySpec
    is_stopping: bool = False
    _processes: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return Path(self.study.folder)

    def call(self, log_name: str, command: str, *argv: str) -> float:
        """Run `dskd COMMAND ...` to its end, with its output in a log; returns the seconds.

        Raises StageError if it fails, and RequeueError if the study is being stopped.
        """
        log = self.folder / LOGS / f"{log_name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        program = [sys.executable, "-m", "dskd_ds.commands.cli", *command.split(), *argv]
        with log.open("ab") as output:
            code = self._run(program, output.fileno())
        if self.is_stopping:
            raise RequeueError("the study was stopped; the same command goes on.")
        if code != 0:
            raise StageError(f"{log_name}: dskd {command} failed with exit code {code}: see {log}")
        return time.monotonic() - started

    def _run(self, program: list[str], output: int) -> int:
        with self._lock:
            if self.is_stopping:
                return 0
            process = subprocess.Popen(
                program,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._processes.add(process)
        # Ends the stage if this process is killed: it would go on, and the next call would meet it.
        guard = start_guard(process.pid)
        try:
            return process.wait()
        finally:
            guard.kill()
            guard.communicate()
            with self._lock:
                self._processes.discard(process)

    def stop(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Handle a signal: running stages save and end, and no other one starts."""
        self.is_stopping = True
        for process in list(self._processes):
            process.send_signal(signal.SIGTERM)


@contextmanager
def stopping_on_signals(stages: Stages) -> Iterator[None]:
    """Stop the stages on SIGTERM, SIGUSR1 and Ctrl-C during the block."""
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = {number: signal.signal(number, stages.stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def do_work(study: StudySpec, runs: Sequence[Run], num_jobs: int) -> list[str]:
    """Run everything that has no result yet; returns what failed, one message per run.

    num_jobs: runs at a time. A failed run does not stop the others.
    Raises InputError if results of another study are in the folder, StageError if a dictionary
    cannot be built, and RequeueError if a signal stopped the study.
    """
    stages = Stages(study)
    pending = [run for run in runs if read_result(stages.folder, run) is None]
    with stopping_on_signals(stages):
        for run in first_of_each_dictionary(pending):
            name = f"senses-{Path(run.spec.senses.dictionary).name}"
            overrides = [*run.overrides, f"seed={base_spec(study).seed}"]
            stages.call(name, "senses build", study.base, *override_argv(overrides))
        with tqdm(
            total=len(runs), initial=len(runs) - len(pending), desc="study", unit="run"
        ) as bar:
            return _run_all(lambda run: _run_one(stages, run), pending, num_jobs, bar)


def _run_all(
    work: Callable[[Run], None], pending: Sequence[Run], num_jobs: int, bar: tqdm[None]
) -> list[str]:
    """Do the work of all runs, `num_jobs` at a time; returns the messages of those that failed."""
    failures: list[str] = []
    with ThreadPoolExecutor(max_workers=num_jobs) as pool:
        futures: set[Future[None]] = {pool.submit(work, run) for run in pending}
        while futures:
            done, futures = wait(futures, return_when=FIRST_COMPLETED)
            for future in done:
                error = future.exception()
                if isinstance(error, RequeueError):
                    raise error  # the other runs meet the same wish and end
                if isinstance(error, StageError | InputError):
                    failures.append(str(error))
                    tqdm.write(str(error), file=sys.stderr)
                elif error is not None:
                    raise error
                bar.update()
    return failures


def _run_one(stages: Stages, run: Run) -> None:
    """Train and score one run, and write its result."""
    base, run_dir = stages.study.base, Path(run.spec.run_dir)
    _wait_for_earlier_launch(stages, run_dir)
    _take_shared_cut(stages.folder, run)
    seconds = {"train": stages.call(run.name, "train", base, *override_argv(run.overrides))}
    _offer_cut(stages.folder, run)
    # The untrained student is the same in all runs, and samples are not compared.
    measured = [
        *override_argv([*run.overrides, "eval.num_samples=0"]),
        "--model",
        f"after={run_dir}/student",
    ]
    seconds["eval"] = stages.call(run.name, "eval", base, *measured)
    scores = summarise(read_items(items_path(run_dir, TASK, "after")))
    result = Result(
        arm=run.arm,
        seed=run.seed,
        digest=run.digest,
        overrides=run.overrides,
        seconds=seconds,
        scores=asdict(scores),
        last_record=read_metrics(run_dir)[-1],
    )
    write_result(stages.folder, result, run)


def _wait_for_earlier_launch(stages: Stages, run_dir: Path) -> None:
    """Wait until no launch holds a run, for a limited time.

    If a study was killed, its launch ends by itself, but it may save first.
    """
    deadline = time.monotonic() + EARLIER_LAUNCH_SECONDS
    while time.monotonic() < deadline and not stages.is_stopping:
        try:
            refuse_a_held_run(run_dir)
            return
        except InputError:
            time.sleep(1.0)


def _take_shared_cut(folder: Path, run: Run) -> None:
    """Link the study's cut of the student into a run directory, if there is one."""
    own = Path(run.spec.run_dir) / INIT_FOLDER
    if run.cut_key is None or own.exists():
        return
    shared = folder / CUTS / run.cut_key
    if shared.is_dir():
        own.parent.mkdir(parents=True, exist_ok=True)
        partial = own.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(shared, partial, copy_function=os.link)
        partial.rename(own)


def _offer_cut(folder: Path, run: Run) -> None:
    """Link a run's cut into the study's folder, for the runs after it."""
    own = Path(run.spec.run_dir) / INIT_FOLDER
    if run.cut_key is None or not own.is_dir():
        return
    shared = folder / CUTS / run.cut_key
    if shared.is_dir():
        return
    shared.parent.mkdir(parents=True, exist_ok=True)
    partial = shared.with_suffix(f".{os.getpid()}.{run.name}")
    shutil.copytree(own, partial, copy_function=os.link)
    try:
        partial.rename(shared)
    except OSError:  # another run was first
        shutil.rmtree(partial)

"""Runs `dskd` commands as processes of their own, each with a log; ends them on a signal."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

from dskd_ds.errors import DskdError, RequeueError
from dskd_ds.runtime.guarded import GuardedProcess
from dskd_ds.study.spec import StudySpec

LOGS = "logs"


class StageError(DskdError):
    """A stage of a run failed; its log says why."""


@dataclass
class Stages:
    """Starts stages, and ends them all if a signal asks for it."""

    study: StudySpec
    is_stopping: bool = False
    _stages: set[GuardedProcess] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return Path(self.study.folder)

    def call(self, log_name: str, *argv: str) -> float:
        """Run `dskd ARGV` to its end, with its output in a log; returns the seconds.

        Raises StageError if it fails, and RequeueError if the study is being stopped.
        """
        log = self.folder / LOGS / f"{log_name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        program = [sys.executable, "-m", "dskd_ds.commands.cli", *argv]
        with log.open("ab") as output:
            code = self._run(program, output)
        if self.is_stopping:
            raise RequeueError("the study was stopped; the same command goes on.")
        if code != 0:
            raise StageError(f"{log_name}: dskd {argv[0]} failed with exit code {code}: see {log}")
        return time.monotonic() - started

    def _run(self, program: list[str], output: IO[bytes]) -> int:
        with self._lock:
            if self.is_stopping:
                return 0
            # A stage that outlived this process would disturb the next call.
            stage = GuardedProcess(program, output=output)
            self._stages.add(stage)
        try:
            return stage.wait()
        finally:
            with self._lock:
                self._stages.discard(stage)

    def stop(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Handle a signal: running stages save and end, and no other one starts."""
        self.is_stopping = True
        for stage in list(self._stages):
            stage.process.send_signal(signal.SIGTERM)


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

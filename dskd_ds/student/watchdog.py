"""Ends a rank that is stuck, with the stacks of its threads; and writes what the rank does now.

A rank that hangs inside a step leaves the others in a collective call, which neither ends by
itself nor lets Python handle a signal. So two threads watch the training thread. The first compares
the time in the present phase with `[train] hang_seconds` and `stop_grace_seconds`. If a limit is
passed, it prints the stacks of all threads and ends the process with exit code 1; the launcher then
ends the other ranks. The second writes the progress file, which `dskd status` and the other ranks'
watchdogs read. It is a thread of its own because a file system can hang.

A rank whose training thread keeps Python's lock while it hangs is not noticed by its own watchdog,
but by those of the ranks that wait for it.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from dskd_ds.errors import ExitCode
from dskd_ds.observe.run_files import (
    RankProgress,
    RecordFile,
    progress_file,
    read_records,
    record_end,
    stacks_file,
)
from dskd_ds.runtime.stop import STOP_SIGNALS
from dskd_ds.spec import RunSpec
from dskd_ds.student.phases import ENDED, Phases
from dskd_ds.student.replies.patience import Limits, Patience, Stuck

LOOK_SECONDS = 1.0
WRITE_SECONDS = 5.0
"""Time between two writes of the progress file: 1,000 ranks replace 200 files per second."""
LAST_WORDS_SECONDS = 30.0
"""How long the end of a stuck rank may take that writes its stacks to a hanging file system."""
MAX_LISTED_RANKS = 8


class Watchdog:
    """Watches the thread that makes it, which trains. It must be the main thread to see signals."""

    def __init__(self, spec: RunSpec, rank: int, phases: Phases) -> None:
        self._run_dir, self._rank, self._phases = Path(spec.run_dir), rank, phases
        self._thread_id = threading.get_ident()
        self._patience = Patience(Limits.of(spec), time.monotonic())
        self._file = RecordFile(progress_file(self._run_dir, rank))
        self._end = threading.Event()
        self._signal_reader, self._signal_writer = os.pipe()
        self._threads = [
            threading.Thread(target=self._watch, name="watchdog", daemon=True),
            threading.Thread(target=self._write_progress, name="progress", daemon=True),
        ]

    def start(self) -> None:
        """Begin to watch."""
        os.set_blocking(self._signal_writer, False)
        if threading.current_thread() is threading.main_thread():
            # A handler of Python runs only when the main thread returns to Python. This descriptor
            # gets the signal's number at once, also while the main thread is in a collective call.
            signal.set_wakeup_fd(self._signal_writer, warn_on_full_buffer=False)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop watching; the progress file then says that the rank has ended."""
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(-1)
        self._end.set()
        os.write(self._signal_writer, b"\0")  # ends the wait for a signal
        for thread in self._threads:
            thread.join(timeout=LAST_WORDS_SECONDS)
        self._phases.enter(ENDED)
        self._file.write(self._progress())
        os.close(self._signal_writer)
        os.close(self._signal_reader)

    def _watch(self) -> None:
        """Look at the training thread until `stop`."""
        while not self._end.is_set():
            readable, _, _ = select.select([self._signal_reader], [], [], LOOK_SECONDS)
            if readable and set(os.read(self._signal_reader, 64)) & set(STOP_SIGNALS):
                self._patience.note_stop()
            median = self._phases.median_step_seconds()
            stuck = self._patience.look(self._phases.current, median, time.monotonic())
            if stuck and not self._end.is_set():
                self._end_process(stuck)

    def _write_progress(self) -> None:
        """Write the progress file now and every few seconds until `stop`."""
        while True:
            self._file.write(self._progress())
            if self._end.wait(WRITE_SECONDS):
                return

    def _progress(self) -> RankProgress:
        phase = self._phases.current
        return RankProgress(
            rank=self._rank,
            host=socket.gethostname(),
            pid=os.getpid(),
            phase=phase.name,
            step=phase.step,
            since=phase.since,
            num_phases=phase.count,
            where=where(sys._current_frames().get(self._thread_id)),
        )

    def _end_process(self, stuck: Stuck) -> None:
        """Print why the rank is stuck and where, and end the process."""
        # If the file system hangs too, the process still ends.
        last_words = threading.Timer(LAST_WORDS_SECONDS, os._exit, [int(ExitCode.FAILED)])
        last_words.daemon = True
        last_words.start()
        frame = where(sys._current_frames().get(self._thread_id))
        message = stuck_message(self._rank, stuck, frame)
        print(message, file=sys.stderr)
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        sys.stderr.flush()
        print(self._write_stacks(message), file=sys.stderr)
        print(others_message(self._run_dir, self._rank), file=sys.stderr, flush=True)
        code = int(ExitCode.FAILED)
        record_end(self._run_dir, "student", self._rank, exit_code=code, message=message)
        os._exit(code)

    def _write_stacks(self, message: str) -> str:
        """Write the stacks of all threads to a file of the run directory; return what to print."""
        path = stacks_file(self._run_dir, self._rank)
        try:
            with path.open("w", encoding="utf-8") as file:
                print(message, file=file, flush=True)
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError as error:
            return f"  {path}: the stacks cannot be written: {error}"
        return f"  the stacks of all threads are also in {path}"


def where(frame: FrameType | None) -> str:
    """Return the innermost line of Python that a thread is in, or "" if it has ended."""
    if frame is None:
        return ""
    code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno} in {code.co_name}"


def stuck_message(rank: int, stuck: Stuck, frame: str) -> str:
    """Return which rank is stuck, where, and which limit it has passed."""
    phase = stuck.phase
    since = "after a signal asked it to stop" if stuck.setting == "stop_grace_seconds" else "now"
    return (
        f"student rank {rank} is stuck: it has been in the phase '{phase.name}' of step"
        f" {phase.step + 1} for {stuck.seconds:.0f} s {since}, and [train] {stuck.setting} allows"
        f" {stuck.limit_seconds:.0f} s. It ends with exit code {int(ExitCode.FAILED)}.\n"
        f"  its training thread is at {frame}"
    )


def others_message(run_dir: Path, rank: int) -> str:
    """Return where the other ranks are, those that are furthest behind first."""
    found = read_records(run_dir, "progress/student-*.json", RankProgress).values()
    others = sorted(
        (progress for progress in found if progress.rank != rank),
        key=lambda progress: (progress.num_phases, progress.rank),
    )
    lines = [
        f"  rank {progress.rank} on {progress.host}: '{progress.phase}' of step"
        f" {progress.step + 1} for {time.time() - progress.since:.0f} s, at {progress.where}"
        for progress in others[:MAX_LISTED_RANKS]
    ]
    if len(others) > MAX_LISTED_RANKS:
        lines.append(
            f"  and {len(others) - MAX_LISTED_RANKS} more ranks, which are not behind these"
        )
    return "\n".join(["the other students, by their progress files, last ones first:", *lines])

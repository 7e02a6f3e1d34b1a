"""`dskd status`: says on one screen how a run is, from the files of its run directory."""

from __future__ import annotations

import argparse
import difflib
import sys
import time
from pathlib import Path

from dskd_ds.errors import InputError
from dskd_ds.observe.evidence import read_evidence
from dskd_ds.observe.judge import judge
from dskd_ds.observe.status import Status
from dskd_ds.observe.status_text import status_text
from dskd_ds.runtime.arguments import Commands
from dskd_ds.spec import SPEC_FILE, load_spec
from dskd_ds.student.run_lock import read_lease

TEXT = """\
Say how a run is: whether it lives, which step it is at and when it will end, who waits for whom,
when it was saved, what it died of, and what to call next. It only reads files of the run
directory, so it works on any machine that sees it, while the job is queued, running or dead.

Shares and speeds are those of the last 20 records. A process that has not written its progress
for a minute is marked SILENT."""

CLEAR_SCREEN = "\x1b[H\x1b[2J"


def add_command(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register `dskd status`."""
    command = commands.add_parser(
        "status",
        help="say how a run is: alive or not, speed, waits, errors, what to do next",
        description=TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("run", metavar="RUN_DIR", help="the run directory, or the run's TOML spec")
    command.add_argument("--json", action="store_true", help="print all of it as JSON")
    command.add_argument(
        "--watch", action="store_true", help="print it again and again, until Ctrl-C"
    )
    command.add_argument(
        "--every",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="time between two prints of --watch (default 5)",
    )
    command.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Print the status, once or until Ctrl-C."""
    run_dir = find_run_dir(args.run)
    try:
        while True:
            status = read_status(run_dir)
            if args.json:
                print(status.model_dump_json(indent=None if args.watch else 2), flush=True)
            else:
                clear = CLEAR_SCREEN if args.watch and sys.stdout.isatty() else ""
                print(clear + status_text(status), flush=True)
            if not args.watch:
                return 0
            time.sleep(max(args.every, 0.1))
    except KeyboardInterrupt:
        return 0


def read_status(run_dir: Path) -> Status:
    """Read a run directory, which may be missing, and return its status."""
    now = time.time()
    return judge(read_evidence(run_dir, read_lease(run_dir, now), now))


def find_run_dir(argument: str) -> Path:
    """Return the run directory that an argument names: the directory itself, or a spec's run_dir.

    The directory of a spec may be missing: such a run was never started. Raises InputError if there
    is no such directory, or if it is not a run's.
    """
    path = Path(argument)
    if path.is_file() or (path.suffix == ".toml" and not path.is_dir()):
        return Path(load_spec(argument).run_dir)
    if not path.is_dir():
        raise InputError(f"{path}: there is no such run directory.\n  {_near(path)}")
    traces = (SPEC_FILE, "metrics.jsonl", "progress", "attempts", "student_init", "checkpoints")
    if not any((path / name).exists() for name in traces):
        raise InputError(
            f"{path}: this is not a run directory: it has none of {', '.join(traces)}.\n"
            f"  {_near(path / 'run')}"
        )
    return path


def _near(path: Path) -> str:
    """Return where the run may be instead."""
    try:
        folders = [entry.name for entry in path.parent.iterdir() if (entry / SPEC_FILE).is_file()]
    except OSError:
        folders = []
    close = difflib.get_close_matches(path.name, folders, n=1, cutoff=0.5) or folders[:1]
    if close:
        return f"did you mean {path.parent / close[0]}?"
    return "give the run_dir of the run's spec, or the spec itself: dskd status SPEC.toml"

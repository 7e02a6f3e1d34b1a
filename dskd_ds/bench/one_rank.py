"""Runs a measuring loop in a process of its own, as the only rank of a launch."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import deepspeed

from dskd_ds.bench.follow import BenchError
from dskd_ds.errors import InputError
from dskd_ds.runtime.arguments import add_overrides, override_argv
from dskd_ds.runtime.console import child_environment, quiet_libraries, quiet_progress
from dskd_ds.runtime.devices import use_threads
from dskd_ds.runtime.launch import free_port
from dskd_ds.runtime.world import open_world
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.depth import INIT_FOLDER

LOG_TAIL_CHARACTERS = 3000


def measure_in_one_rank(
    name: str, module: str, spec_file: str, settings: Sequence[str], rounds: int
) -> dict[str, Any]:
    """Return what a module measured: the JSON that it writes to its option --output.

    name: of the bench. settings: overrides of the spec. The module works in a run directory of its
    own, where it finds the spec's untrained student.
    Raises InputError if that student does not exist, BenchError if the process fails.
    """
    student = Path(load_spec(spec_file, settings).run_dir, INIT_FOLDER)
    if not student.is_dir():
        raise InputError(
            f"{student}: the bench {name} needs this student, which does not exist yet.\n"
            "  run make quickstart first (or name other benches: dskd bench --only NAME)."
        )
    with tempfile.TemporaryDirectory(prefix="dskd-bench-") as folder:
        run_dir, output = Path(folder, "run"), Path(folder, "measured.json")
        run_dir.mkdir()
        (run_dir / INIT_FOLDER).symlink_to(student.resolve())
        command = [sys.executable, "-m", module, "--spec", spec_file]
        command += ["--output", str(output), "--rounds", str(rounds)]
        command += override_argv([*settings, f"run_dir={run_dir}"])
        done = subprocess.run(command, env=_environment(), capture_output=True, text=True)
        if done.returncode != 0:
            log = (done.stdout + done.stderr)[-LOG_TAIL_CHARACTERS:]
            raise BenchError(f"bench {name}: it ended with exit code {done.returncode}.\n{log}")
        measured: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
        return measured


def _environment() -> dict[str, str]:
    """Return the variables of a launch with one rank."""
    variables = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    master = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return child_environment(os.environ) | variables | master


def measure_and_write(doc: str, measure: Callable[[RunSpec, int], dict[str, Any]]) -> None:
    """Be the process that `measure_in_one_rank` starts.

    doc: description for --help. measure: from the spec and the number of rounds to the result.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spec", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    add_overrides(parser)
    args = parser.parse_args()
    quiet_libraries()
    quiet_progress()
    spec = load_spec(args.spec, args.set)
    use_threads(spec.topology.threads_per_rank)
    open_world()
    args.output.write_text(json.dumps(measure(spec, args.rounds)), encoding="utf-8")
    deepspeed.comm.destroy_process_group()

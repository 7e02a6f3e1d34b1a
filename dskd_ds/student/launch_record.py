"""Student 0 says in the run directory which launch trains there, and how to start it again."""

from __future__ import annotations

import os
import shlex
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from dskd_ds.observe.attempts import attempt_number
from dskd_ds.observe.run_files import (
    COMMAND_VARIABLE,
    RUN_START_FILE,
    RecordFile,
    RunStart,
    read_record,
)
from dskd_ds.runtime.topology import Role
from dskd_ds.spec import RunSpec

LAUNCH_OPTIONS = {
    "deepspeed": "deepspeed [the same options]",
    "torch": "torchrun [the same options]",
    "mpirun": "mpirun [the same options] python",
    "srun": "srun [the same options] python",
    "none": "python",
}
"""How a command line that starts the entry begins, by launcher."""


class LaunchRecord:
    """The record of this launch in progress/run.json. Only student 0 has one.

    Create it while the run lock is held: the record of another launch that lives must stay.
    """

    def __init__(self, spec: RunSpec, role: Role) -> None:
        """Write the record, before it is known how many steps are done."""
        path = Path(spec.run_dir) / RUN_START_FILE
        before = read_record(path, RunStart)
        earlier = before.attempt if before else 0
        self._file = RecordFile(path)
        self._record = RunStart(
            host=socket.gethostname(),
            pid=os.getpid(),
            started=time.time(),
            attempt=attempt_number() or earlier + 1,
            job_id=os.environ.get("SLURM_JOB_ID", ""),
            launcher=role.launch.launcher,
            num_students=spec.topology.num_students,
            num_teachers=spec.topology.num_teachers,
            num_steps=spec.train.num_steps,
            command=start_command(sys.argv, role.launch.launcher, os.environ),
            cwd=str(Path.cwd()),
        )
        self._file.write(self._record)

    def note_steps(self, num_done: int, num_steps: int) -> None:
        """Add how many steps were done before this launch, and how many the run has."""
        steps = {"first_step": num_done, "num_steps": num_steps}
        self._record = self._record.model_copy(update=steps)
        self._file.write(self._record)


def start_command(argv: Sequence[str], launcher: str, env: Mapping[str, str]) -> str:
    """Return what starts the launch again: the command that `dskd` or a job script passed on.

    Else the entry's command line; only the user knows the launcher's own options. argv: of this
    process.
    """
    if env.get(COMMAND_VARIABLE):
        return env[COMMAND_VARIABLE]
    # The deepspeed launcher adds --local_rank=0.
    own = [argument for argument in argv if not argument.startswith("--local_rank")]
    return f"{LAUNCH_OPTIONS.get(launcher, launcher)} {shlex.join(own)}"

"""Starts TRL's side of the comparison in side_by_side.py: its environment and its command."""

from __future__ import annotations

import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from dskd_ds.runtime.launch import free_port

PINS = ("torch==2.13.0", "trl==1.16.0", "transformers==5.23.0")
"""Pinned, because TRL's GKD trainer is experimental and may change with each release."""


@dataclass(frozen=True)
class TrlSide:
    """What TRL's processes run with, the same in every run."""

    python: str
    """Python of TRL's environment."""
    student: Path
    teacher: str
    blocks: Path
    """JSON file with a list of token ids per block."""
    num_processes: int
    batch_blocks: int
    """Blocks per process and step."""
    num_threads: int
    learning_rate: float
    max_steps: int

    def command(self, run_dir: Path) -> list[str]:
        """Return the command of one run; several processes are started by torchrun."""
        launcher: list[str] = []
        if self.num_processes > 1:
            launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(self.num_processes)]
            launcher += ["--master_port", str(free_port())]
        options = {
            "--student": self.student,
            "--teacher": self.teacher,
            "--blocks": self.blocks,
            "--run-dir": run_dir,
            "--threads": self.num_threads,
            "--batch-blocks": self.batch_blocks,
            "--lr": self.learning_rate,
            "--max-steps": self.max_steps,
        }
        script = str(Path(__file__).with_name("trl_gkd.py"))
        # bench/follow.py finds the process to measure by --local_rank; trl_gkd.py does not read it.
        command = [self.python, *launcher, script, "--local_rank=0"]
        for option, value in options.items():
            command += [option, str(value)]
        return command


def trl_python(work_dir: Path) -> str:
    """Return the Python of an environment with TRL, which is created if necessary.

    torch is installed first, so that its CPU build is kept.
    """
    folder = work_dir.resolve() / "trl-venv"
    python = folder / "bin" / "python"
    # The marker is written last: an environment without it is incomplete and is created anew.
    if not (folder / ".ready").is_file():
        print(f"creating {folder} with {', '.join(PINS)} ...", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True)
        for pin in PINS:
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", pin], check=True)
        (folder / ".ready").touch()
    return str(python)

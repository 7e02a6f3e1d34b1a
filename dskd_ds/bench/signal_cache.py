"""Measures a run that reads kept teacher signal against one whose teacher shares the cores.

Two students of the quickstart train with top-k distillation. In the arm `live` a teacher is a third
rank, and all ranks share the cores that this process may use; in the arm `cache` nothing but the
students runs. The arms run in turn; each pair gives one ratio.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from dskd_ds.bench.follow import BenchError, follow
from dskd_ds.bench.measure import REPEATS, Figure
from dskd_ds.bench.real_text import PLAIN_TRAINING, QUICKSTART
from dskd_ds.errors import InputError
from dskd_ds.runtime.arguments import override_argv
from dskd_ds.runtime.console import child_environment
from dskd_ds.runtime.launch import fill_command, free_port, tool
from dskd_ds.signal_cache.room import segment_files
from dskd_ds.spec import load_spec
from dskd_ds.student.depth import INIT_FOLDER

TRAIN = str(Path(__file__).parents[1] / "train.py")
NUM_STEPS, NUM_DROPPED = 5, 2
NUM_AHEAD = 4
"""Steps whose requests are looked up before a launch is ended; they must be in the cache too."""
TARGET_SPEED_UP = 1.3
ARMS = {
    "live": ("topology.num_teachers=1", "teacher.block_by_block=true"),
    "cache": ("topology.num_teachers=0", "teacher.source=cache"),
}


@dataclass(frozen=True)
class Pair:
    """Seconds per step of both arms, measured one after the other."""

    live: float
    cache: float

    @property
    def speed_up(self) -> float:
        """How many times more tokens per second the cache gives."""
        return self.live / self.cache


class Launches:
    """Starts both arms, with all folders below `folder`."""

    def __init__(self, spec_file: str, folder: Path) -> None:
        """Raises InputError if the quickstart's student does not exist."""
        self.spec_file, self.folder = spec_file, folder
        self.overrides = [
            "topology.num_students=2",
            "loss.sense_weight=0",
            *PLAIN_TRAINING,
            "checkpoint.every_steps=0",
            "checkpoint.every_minutes=0",
            f"teacher.cache_dir={folder}/signals",
            f"train.num_steps={NUM_STEPS + NUM_DROPPED + NUM_AHEAD}",
        ]
        self.student = Path(load_spec(spec_file).run_dir) / INIT_FOLDER
        if not self.student.is_dir():
            raise InputError(
                f"{self.student}: this bench needs the quickstart's student, which does not exist"
                " yet.\n  run make quickstart first."
            )

    def fill(self) -> float:
        """Fill the cache for the steps of a launch; returns its bytes per token.

        Raises BenchError if that fails.
        """
        overrides = [*self.overrides, *ARMS["cache"], f"run_dir={self.folder}/filled"]
        done = subprocess.run(
            fill_command(self.spec_file, overrides, num_ranks=1),
            env=child_environment(os.environ),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise BenchError(f"the cache could not be filled:\n{done.stderr[-2000:]}")
        spec = load_spec(self.spec_file, overrides)
        assert spec.train.num_steps is not None
        num_blocks = spec.train.num_steps * spec.train.global_batch_blocks
        num_bytes = sum(file.num_bytes for file in segment_files(Path(spec.teacher.cache_folder)))
        return num_bytes / (num_blocks * spec.data.block_tokens)

    def seconds_per_step(self, arm: str) -> float:
        """Launch an arm and return the median of its measured steps. Raises BenchError."""
        run_dir = Path(tempfile.mkdtemp(prefix=f"{arm}-", dir=self.folder))
        (run_dir / INIT_FOLDER).symlink_to(self.student.resolve())
        overrides = [*self.overrides, *ARMS[arm], f"run_dir={run_dir}"]
        topology = load_spec(self.spec_file, overrides).topology
        num_ranks = topology.num_students + topology.num_teachers
        launcher = [tool("deepspeed"), "--num_gpus", str(num_ranks)]
        command = [*launcher, "--master_port", str(free_port()), TRAIN, "--spec", self.spec_file]
        followed = follow(
            [[*command, *override_argv(overrides)]],
            run_dir=run_dir,
            num_steps=NUM_STEPS,
            dropped=NUM_DROPPED,
            pin=False,
        )
        return statistics.median(step.seconds for step in followed.steps)


def measure(spec_file: str, num_pairs: int = REPEATS) -> tuple[list[Pair], float]:
    """Return the pairs, and the bytes per token that the cache took."""
    with tempfile.TemporaryDirectory(prefix="dskd-bench-") as folder:
        launches = Launches(spec_file, Path(folder))
        bytes_per_token = launches.fill()
        pairs: list[Pair] = []
        for _ in tqdm(range(num_pairs), desc="pairs", unit="pair", file=sys.stderr):
            seconds = {arm: launches.seconds_per_step(arm) for arm in ARMS}
            pairs.append(Pair(**seconds))
        return pairs, bytes_per_token


def figures(pairs: list[Pair], bytes_per_token: float, tokens_per_step: int) -> list[Figure]:
    """Return the figures of the measured pairs."""
    speed_ups = [pair.speed_up for pair in pairs]
    notes = {
        "ratio of each pair": ", ".join(f"{ratio:.2f}" for ratio in speed_ups),
        **{
            f"tokens/s, {arm}": f"{tokens_per_step / statistics.median(seconds):.1f}"
            for arm, seconds in (
                ("live", [pair.live for pair in pairs]),
                ("cache", [pair.cache for pair in pairs]),
            )
        },
        "cores": str(len(os.sched_getaffinity(0))),
    }
    return [
        Figure(
            key="cache_speed_up",
            what='tokens/s with source = "cache" against a live teacher that shares the cores',
            value=statistics.median(speed_ups),
            target=TARGET_SPEED_UP,
            notes=notes,
        ),
        Figure(
            key="cache_bytes_per_token",
            what="bytes per token of text that the cache takes on disk",
            value=bytes_per_token,
            better="lower",
        ),
    ]


def bench_cache() -> list[Figure]:
    """Return the figures for the quickstart's models."""
    spec = load_spec(QUICKSTART)
    pairs, bytes_per_token = measure(QUICKSTART)
    tokens_per_step = spec.train.global_batch_blocks * spec.data.block_tokens
    return figures(pairs, bytes_per_token, tokens_per_step)


BENCHES: dict[str, Callable[[], list[Figure]]] = {"cache": bench_cache}

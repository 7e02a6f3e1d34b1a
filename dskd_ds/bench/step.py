"""Measures whole steps in real launches of the quickstart's models: a student and a teacher.

Each has one core. The launches ("arms") run in turn:

    bare     DeepSpeed and cross-entropy, as a user would write it (bench/bare_loop.py)
    loop     this project's loop with the same loss (bench/ce_loop.py)
    replay   top-k KD, with a teacher that answers from a folder (bench/replay.py)
    kd       top-k KD with the live teacher (train.py)
    sense    top-k KD and the sense term with the live teacher (train.py)
    kd_memory, sense_memory
             kd and sense once more with LIVE_ALLOCATOR, for the student's peak memory

Each round runs every arm once. Ratios are taken within a round; a figure is their median.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from dskd_ds.bench.follow import Followed, follow, two_cores
from dskd_ds.bench.measure import REPEATS, Figure
from dskd_ds.bench.real_text import PLAIN_TRAINING, QUICKSTART
from dskd_ds.bench.step_figures import figures
from dskd_ds.errors import InputError
from dskd_ds.runtime.console import CPU_ALLOCATOR
from dskd_ds.runtime.launch import free_port, tool
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.depth import INIT_FOLDER

TRAIN = str(Path(__file__).parents[1] / "train.py")
ARMS = ("bare", "loop", "replay", "kd", "sense", "kd_memory", "sense_memory")
LIVE_ALLOCATOR = dict.fromkeys(CPU_ALLOCATOR) | {"MALLOC_MMAP_THRESHOLD_": str(1 << 18)}
"""Allocator settings with which glibc returns freed memory at once: a peak is then of live memory.

With the settings of a run on a CPU the heap is fragmented, and two equal runs differ by more than
the sense term adds.
"""
NUM_STEPS, NUM_DROPPED = 5, 2
ENDLESS = 10_000
"""[train] num_steps or num_epochs of a launch, which is ended as soon as the measured steps are
done."""
NO_TEACHER, NO_SENSES = "topology.num_teachers=0", "loss.sense_weight=0"


class Arms:
    """Starts the launches to compare. All use one spec; run directories are below `folder`."""

    def __init__(self, spec_file: str, overrides: Sequence[str], folder: Path) -> None:
        self.spec_file, self.folder = spec_file, folder
        # A spec has one of the two.
        ranks = ["topology.num_students=1", "topology.num_teachers=1"]
        epochs = load_spec(spec_file, [*ranks, *overrides]).train.num_epochs
        length = "num_steps" if epochs is None else "num_epochs"
        self.overrides = [
            *ranks,
            f"train.{length}={ENDLESS}",
            "checkpoint.every_steps=0",
            "checkpoint.every_minutes=0",
            "repair.steps=0",
            "topology.threads_per_rank=1",
            *overrides,
        ]
        self.spec: RunSpec = load_spec(spec_file, self.overrides)
        self.student = Path(self.spec.run_dir) / INIT_FOLDER

    def check(self, arms: Sequence[str]) -> None:
        """Raise InputError if the student or the dictionary that the arms need does not exist."""
        needed = {"student": self.student}
        if any(arm.startswith("sense") for arm in arms):
            needed["dictionary"] = Path(self.spec.senses.dictionary)
        for what, path in needed.items():
            if not path.is_dir():
                raise InputError(
                    f"{path}: the benches of the whole step need this {what}, "
                    "which does not exist yet.\n"
                    "  run make quickstart first (or name other benches: dskd bench --only NAME).\n"
                    "  of a spec of your own: dskd senses build SPEC, dskd train SPEC."
                )

    def run(self, arm: str, num_steps: int, dropped: int) -> Followed:
        """Launch an arm and measure num_steps steps after `dropped` ones."""
        # A new folder per launch, so that nothing is resumed; only the initial student is shared.
        run_dir = Path(tempfile.mkdtemp(prefix=f"{arm}-", dir=self.folder))
        (run_dir / INIT_FOLDER).symlink_to(self.student.resolve())
        return follow(
            commands=self.commands(arm.removesuffix("_memory"), run_dir),
            run_dir=run_dir,
            num_steps=num_steps,
            dropped=dropped,
            env=LIVE_ALLOCATOR if arm.endswith("_memory") else None,
        )

    def commands(self, arm: str, run_dir: Path) -> list[list[str]]:
        """Return the commands (argv) that an arm starts."""
        # A live teacher is rank 1 of the launch; the replaying one is a separate process.
        num_ranks = 2 if arm in ("kd", "sense") else 1
        launcher = [
            tool("deepspeed"),
            "--num_gpus",
            str(num_ranks),
            "--master_port",
            str(free_port()),
        ]
        commands = [launcher + self._script(arm, run_dir)]
        if arm == "replay":
            store = str(self.folder / "replies")
            options = self._options(run_dir, NO_TEACHER, NO_SENSES)
            commands.append(
                [sys.executable, "-m", "dskd_ds.bench.replay", "--store", store, *options]
            )
        return commands

    def _script(self, arm: str, run_dir: Path) -> list[str]:
        """Return what the launcher of an arm runs, with its options."""
        bare = ["--module", "dskd_ds.bench.bare_loop"]
        loop = ["--module", "dskd_ds.bench.ce_loop"]
        without_teacher = self._options(run_dir, NO_TEACHER)
        return {
            "floor": [*bare, *without_teacher, "--without-deepspeed"],
            "bare": [*bare, *without_teacher],
            "loop": [*loop, *without_teacher],
            "replay": [TRAIN, *self._options(run_dir, NO_TEACHER, NO_SENSES)],
            "kd": [TRAIN, *self._options(run_dir, NO_SENSES)],
            "sense": [TRAIN, *self._options(run_dir)],
        }[arm]

    def _options(self, run_dir: Path, *more: str) -> list[str]:
        """Return the --spec and --set options of a run, with `more` settings."""
        options = ["--spec", self.spec_file]
        for setting in (*self.overrides, *more, f"run_dir={run_dir}"):
            options += ["--set", setting]
        return options


def measure(
    spec_file: str,
    overrides: Sequence[str] = (),
    arms: Sequence[str] = ARMS,
    rounds: int = REPEATS,
    num_steps: int = NUM_STEPS,
    dropped: int = NUM_DROPPED,
) -> dict[str, list[Followed]]:
    """Run the arms in turn, `rounds` times, and return the measured launches of each arm.

    Before that it runs the floor once and, if needed, records the replies for the replaying
    teacher. dropped: number of first steps that are not measured.
    Raises InputError if the quickstart was not run or there is only one core, BenchError if a
    launch fails.
    """
    two_cores()  # raises here, before anything is launched, if there is only one
    with tempfile.TemporaryDirectory(prefix="dskd-bench-") as folder:
        launches = Arms(spec_file, overrides, Path(folder))
        launches.check(arms)
        # A measured run requests this many steps ahead and is ended before it needs their replies.
        # The recording run takes as many more steps, so that these replies are stored too.
        num_ahead = launches.spec.link.prefetch_depth + 1
        found: dict[str, list[Followed]] = {arm: [] for arm in ("floor", *arms)}
        for arm, counts in tqdm(turns(arms, rounds), desc="launches", unit="run"):
            steps = num_steps if counts else num_steps + num_ahead
            followed = launches.run(arm, steps, dropped)
            if counts:
                found[arm].append(followed)
    return found


def turns(arms: Sequence[str], rounds: int) -> list[tuple[str, bool]]:
    """Return the launches in their order: the arm, and whether it counts.

    The launch that records replies for the replaying teacher does not count. The floor is measured
    for arms that are compared with it.
    """
    recording = [("replay", False)] if "replay" in arms else []
    measured = [(arm, True) for _ in range(rounds) for arm in arms]
    floor = [("floor", True)] if {"bare", "loop"} & set(arms) else []
    return [*floor, *recording, *measured]


def bench_step() -> list[Figure]:
    """Return the figures of the whole step on the quickstart's models, with one block per step."""
    found = measure(QUICKSTART, [*PLAIN_TRAINING, "train.global_batch_blocks=1"])
    return figures(found, tokens=load_spec(QUICKSTART).data.block_tokens)


BENCHES: dict[str, Callable[[], list[Figure]]] = {"step": bench_step}

"""Benches of the whole step: real launches of the quickstart's models, one student and one teacher, a core each, in turn.

    bare     DeepSpeed and cross-entropy, as a user would write it (bench/bare_loop.py)
    loop     this project's loop around the same (bench/ce_loop.py)
    replay   top-k KD, fed by a teacher that answers from a folder (bench/replay.py)
    kd       top-k KD with the live teacher (train.py)
    sense    the same with the sense term (train.py)
    kd_memory, sense_memory
             both once more for the student's peak memory, with LIVE_ALLOCATOR

Each round runs all of them once; ratios are taken within a round, and the median over rounds counts.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from dskd_ds.bench.follow import Followed, follow, two_cores
from dskd_ds.bench.measure import REPEATS, Figure
from dskd_ds.errors import InputError
from dskd_ds.runtime.console import CPU_ALLOCATOR
from dskd_ds.runtime.launch import free_port, tool
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.depth import INIT_FOLDER

QUICKSTART = "ds_configs/runs/quickstart.toml"
TRAIN = str(Path(__file__).parents[1] / "train.py")
ARMS = ("bare", "loop", "replay", "kd", "sense", "kd_memory", "sense_memory")
LIVE_ALLOCATOR = dict.fromkeys(CPU_ALLOCATOR) | {"MALLOC_MMAP_THRESHOLD_": str(1 << 18)}
"""glibc gives back what is freed at once, so a peak is of what is alive. With the settings that a run has on a CPU the heap keeps holes:
two runs of one kind then differ by more than the sense term adds."""
NUM_STEPS, NUM_DROPPED = 5, 2
ENDLESS = 10_000
"""Steps that a launch is given; it is ended after those that are measured."""


class Arms:
    """The launches to compare, all of one spec; their run directories are below `folder`."""

    def __init__(self, spec_file: str, overrides: Sequence[str], folder: Path) -> None:
        self.spec_file, self.folder = spec_file, folder
        self.overrides = [
            "topology.num_students=1",
            "topology.num_teachers=1",
            f"train.num_steps={ENDLESS}",
            "checkpoint.every_steps=0",
            "topology.threads_per_rank=1",
            *overrides,
        ]
        self.spec: RunSpec = load_spec(spec_file, self.overrides)
        self.student = Path(self.spec.run_dir) / INIT_FOLDER

    def check(self, arms: Sequence[str]) -> None:
        """Raises InputError where what the arms run on is not there."""
        senses = any(arm.startswith("sense") for arm in arms)
        needed = {
            "student": self.student,
            **({"dictionary": Path(self.spec.senses.dictionary)} if senses else {}),
        }
        for what, path in needed.items():
            if not path.is_dir():
                raise InputError(
                    f"{path}: there is no {what} yet, which the benches of the whole step run on.\n"
                    "  make quickstart first (or name other benches: dskd bench --only NAME)."
                )

    def run(self, arm: str, num_steps: int, dropped: int) -> Followed:
        """One launch of an arm, followed."""
        run_dir = Path(tempfile.mkdtemp(prefix=f"{arm}-", dir=self.folder))
        (run_dir / INIT_FOLDER).symlink_to(self.student.resolve())
        env = LIVE_ALLOCATOR if arm.endswith("_memory") else None
        return follow(
            self.commands(arm.removesuffix("_memory"), run_dir),
            run_dir,
            num_steps,
            dropped,
            env=env,
        )

    def commands(self, arm: str, run_dir: Path) -> list[list[str]]:
        """What an arm starts."""
        no_teacher, no_senses = "topology.num_teachers=0", "loss.sense_weight=0"
        bare = ["--module", "dskd_ds.bench.bare_loop"]
        words = {
            "floor": [*bare, *self._words(run_dir, no_teacher), "--without-deepspeed"],
            "bare": [*bare, *self._words(run_dir, no_teacher)],
            "loop": ["--module", "dskd_ds.bench.ce_loop", *self._words(run_dir, no_teacher)],
            "replay": [TRAIN, *self._words(run_dir, no_teacher, no_senses)],
            "kd": [TRAIN, *self._words(run_dir, no_senses)],
            "sense": [TRAIN, *self._words(run_dir)],
        }[arm]
        num_ranks = 2 if arm in ("kd", "sense") else 1
        commands = [
            [
                tool("deepspeed"),
                "--num_gpus",
                str(num_ranks),
                "--master_port",
                str(free_port()),
                *words,
            ]
        ]
        if arm == "replay":
            commands.append(
                [
                    sys.executable,
                    "-m",
                    "dskd_ds.bench.replay",
                    "--store",
                    str(self.folder / "replies"),
                    *self._words(run_dir, no_teacher, no_senses),
                ]
            )
        return commands

    def _words(self, run_dir: Path, *more: str) -> list[str]:
        settings = [*self.overrides, *more, f"run_dir={run_dir}"]
        return [
            "--spec",
            self.spec_file,
            *(word for setting in settings for word in ("--set", setting)),
        ]


def measure(
    spec_file: str,
    overrides: Sequence[str] = (),
    arms: Sequence[str] = ARMS,
    rounds: int = REPEATS,
    num_steps: int = NUM_STEPS,
    dropped: int = NUM_DROPPED,
) -> dict[str, list[Followed]]:
    """Run the arms in turn, `rounds` times; before that the floor, and what the replaying teacher has to record, once each.

    Raises InputError where the quickstart has not been run or there is one core only, BenchError if a launch fails.
    """
    two_cores()
    with tempfile.TemporaryDirectory(prefix="dskd-bench-") as folder:
        launches = Arms(spec_file, overrides, Path(folder))
        launches.check(arms)
        ahead = (
            launches.spec.link.prefetch_depth + 1
        )  # what a run asks for and is ended before it needs it
        found: dict[str, list[Followed]] = {arm: [] for arm in ("floor", *arms)}
        for arm, counts in tqdm(turns(arms, rounds), desc="launches", unit="run"):
            followed = launches.run(arm, num_steps if counts else num_steps + ahead, dropped)
            if counts:
                found[arm].append(followed)
    return found


def turns(arms: Sequence[str], rounds: int) -> list[tuple[str, bool]]:
    """The launches in their order: arm, and whether it counts. What does not is the replaying teacher's recording."""
    recording = [("replay", False)] if "replay" in arms else []
    return [("floor", True), *recording, *((arm, True) for _ in range(rounds) for arm in arms)]


def step_figures() -> list[Figure]:
    """The figures that need the whole system."""
    return figures(
        measure(QUICKSTART, ["train.global_batch_blocks=1"]),
        tokens=load_spec(QUICKSTART).data.block_tokens,
    )


def figures(found: Mapping[str, Sequence[Followed]], tokens: int) -> list[Figure]:
    """Ratios of what `measure` found. tokens: in one step."""
    floor = f"{_seconds(found['floor'][0]):.3f} s a step: forward and backward without DeepSpeed"
    live, replay = _ratios(found, "kd", "bare"), _ratios(found, "replay", "bare")
    sense_time, loop_time = _ratios(found, "sense", "kd"), _ratios(found, "loop", "bare")
    memory = [
        one.student_bytes / other.student_bytes
        for one, other in zip(found["sense_memory"], found["kd_memory"], strict=True)
    ]
    return [
        Figure(
            "sense_time_ratio",
            "step with the sense term / plain KD, one core each",
            statistics.median(sense_time),
            1.03,
            "lower",
            {"floor": floor, **_notes(found, ("sense", "kd"), sense_time)},
        ),
        Figure(
            "sense_memory_ratio",
            "the student's peak memory with the sense term / plain KD",
            statistics.median(memory),
            1.01,
            "lower",
            {
                "megabytes": f"{_megabytes(found['sense_memory'])} / {_megabytes(found['kd_memory'])}",
                "ratios": _list(memory),
                "megabytes as a run has them": f"{_megabytes(found['sense'])} / {_megabytes(found['kd'])}",
            },
        ),
        Figure(
            "stream_time_ratio",
            "step of streamed top-k KD, live teacher / cross-entropy without a teacher",
            statistics.median(live),
            1.05,
            "lower",
            {"floor": floor, **_notes(found, ("kd", "bare"), live)},
        ),
        Figure(
            "stream_replay_time_ratio",
            "the same with a teacher that replays",
            statistics.median(replay),
            1.05,
            "lower",
            _notes(found, ("replay", "bare"), replay),
        ),
        Figure(
            "loop_ratio",
            "tokens/s of the loop / of a bare DeepSpeed loop, both with cross-entropy",
            1 / statistics.median(loop_time),
            0.95,
            "higher",
            {
                "floor": floor,
                "tokens_per_second": f"{_speed(found['loop'], tokens):.0f} / {_speed(found['bare'], tokens):.0f}",
                **_notes(found, ("loop", "bare"), loop_time),
            },
        ),
    ]


def _seconds(followed: Followed) -> float:
    return statistics.median(step.seconds for step in followed.steps)


def _cpu_seconds(followed: Followed) -> float:
    return statistics.median(step.cpu_seconds for step in followed.steps)


def _ratios(found: Mapping[str, Sequence[Followed]], one: str, other: str) -> list[float]:
    """Time of one arm over another's, round by round."""
    return [
        _seconds(mine) / _seconds(theirs)
        for mine, theirs in zip(found[one], found[other], strict=True)
    ]


def _notes(
    found: Mapping[str, Sequence[Followed]], arms: tuple[str, str], ratios: Sequence[float]
) -> dict[str, str]:
    """Absolute times, the spread over rounds, and the same in the student's CPU time."""
    cpu = [
        _cpu_seconds(mine) / _cpu_seconds(theirs)
        for mine, theirs in zip(found[arms[0]], found[arms[1]], strict=True)
    ]
    seconds = [statistics.median(_seconds(followed) for followed in found[arm]) for arm in arms]
    steps = sum(len(followed.steps) for followed in found[arms[0]])
    return {
        "seconds a step": f"{seconds[0]:.3f} / {seconds[1]:.3f}",
        "runs and steps of each": f"{len(ratios)}, {steps}",
        "ratio of each round": _list(ratios),
        "ratio in the student's CPU time": f"{statistics.median(cpu):.4f} ({_list(cpu)})",
    }


def _speed(found: Sequence[Followed], tokens: int) -> float:
    return tokens / statistics.median(_seconds(followed) for followed in found)


def _megabytes(found: Sequence[Followed]) -> str:
    return f"{statistics.median(followed.student_bytes for followed in found) / 1e6:.1f}"


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


BENCHES: dict[str, Callable[[], list[Figure]]] = {"step": step_figures}

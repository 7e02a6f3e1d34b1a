"""Compares this project with TRL's GKD trainer.

Both sides use the same student, teacher, blocks of tokens, micro-batch and two cores.

    python tools/side_by_side.py [--json] [--work-dir DIR] [--batch-blocks 4] [--processes 1]
                                 [--rounds 5]

Run `make quickstart` first: its student and teacher are used. TRL gets its own environment below
--work-dir. Equal on both sides: float32, forward KL at temperature 1, no on-policy texts, AdamW,
clipping at 1. Different:

- Ours adds cross-entropy, and its KL is over the teacher's top k and a bucket for the rest
  (--signal exact: over all tokens, as TRL's is).
- A TRL process runs teacher and student in turn; our side runs --processes students and one more
  process for the teacher. Every process has 2 / --processes threads. One student uses ZeRO stage 0,
  because a single rank has nothing to shard; two use stage 2.
- TRL runs three times per round: as installed, with our launcher's allocator settings, and with
  these and its `torch_compile`. Its best time and its smallest memory count, whichever run they
  come from. Our side has `compile = true` for student and teacher.

Memory is the peak without mapped files (heap, stacks, shared memory), added over all processes and
the launcher.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm
from trl_side import PINS, TrlSide, trl_python

from dskd_ds.bench.follow import Followed, follow
from dskd_ds.bench.measure import Figure, as_json, table
from dskd_ds.bench.real_text import PLAIN_TRAINING, QUICKSTART
from dskd_ds.bench.step import ENDLESS
from dskd_ds.errors import InputError
from dskd_ds.runtime.arguments import exit_code_of
from dskd_ds.runtime.console import CPU_ALLOCATOR, quiet_libraries, quiet_progress
from dskd_ds.runtime.launch import free_port, tool
from dskd_ds.spec import load_spec
from dskd_ds.student.depth import INIT_FOLDER

NUM_BLOCKS = 64
NUM_DROPPED = 2
TRL_ARMS = ("trl", "trl_allocator", "trl_compile")


def main() -> int:
    """Parse the arguments, run both sides, print the figures and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=Path("runs/side_by_side"),
        help="folder for TRL's environment",
    )
    parser.add_argument(
        "--batch-blocks",
        type=int,
        default=4,
        help="blocks of 256 tokens per step of either side, shared evenly by its processes",
    )
    parser.add_argument(
        "--processes",
        type=int,
        choices=(1, 2),
        default=1,
        help="number of our students, and of TRL's processes (under torchrun)",
    )
    parser.add_argument("--rounds", type=int, default=5, help="number of runs of each side")
    parser.add_argument(
        "--steps", type=int, default=4, help="measured steps per run, after two unmeasured ones"
    )
    parser.add_argument(
        "--signal", choices=("topk", "exact"), default="topk", help="our teacher signal"
    )
    args = parser.parse_args()
    quiet_libraries()
    quiet_progress()
    return exit_code_of(lambda: show(compare(args), args.json))


def show(figures: list[Figure], json_wanted: bool) -> None:
    """Print figures as JSON or as a table."""
    print(as_json(figures) if json_wanted else table(figures))


def compare(args: argparse.Namespace) -> list[Figure]:
    """Run both sides in turn and return the figures.

    Raises InputError if the quickstart was not run or the blocks cannot be shared evenly,
    BenchError if a side fails.
    """
    from dskd_ds.data.source import open_source
    from dskd_ds.models.named import NamedModel

    spec = load_spec(QUICKSTART)
    student = (Path(spec.run_dir) / INIT_FOLDER).resolve()
    _check(args, student)
    python, teacher = trl_python(args.work_dir), NamedModel.of_teacher(spec.teacher)
    source = open_source(
        spec.data,
        teacher.tokenizer,
        seed=spec.seed,
        step_blocks=spec.train.global_batch_blocks,
    )
    found: dict[str, list[Followed]] = {"ours": [], **{arm: [] for arm in TRL_ARMS}}
    with tempfile.TemporaryDirectory(prefix="dskd-side-") as name:
        folder = Path(name)
        blocks = folder / "blocks.json"
        # Both sides read the same blocks: TRL gets token ids, so it neither tokenizes nor packs.
        token_ids = [source.get(index)[1]["input_ids"] for index in range(NUM_BLOCKS)]
        blocks.write_text(json.dumps(token_ids), encoding="utf-8")
        trl_side = TrlSide(
            python=python,
            student=student,
            teacher=teacher.path,
            blocks=blocks,
            num_processes=args.processes,
            batch_blocks=args.batch_blocks // args.processes,
            num_threads=num_threads(args),
            learning_rate=spec.optimizer.lr,
            max_steps=ENDLESS,
        )
        # In turn, so that a drift of the machine's speed meets all arms alike.
        arms = [arm for _ in range(args.rounds) for arm in found]
        for arm in tqdm(arms, desc="runs", unit="run"):
            run_dir = Path(tempfile.mkdtemp(prefix=f"{arm}-", dir=folder))
            (run_dir / INIT_FOLDER).symlink_to(student)
            followed = run_arm(arm, args, trl_side, run_dir)
            found[arm].append(followed)
            print_run(arm, followed)
    return figures(found, args.batch_blocks * spec.data.block_tokens, args)


def _check(args: argparse.Namespace, student: Path) -> None:
    """Raise InputError if the blocks cannot be shared evenly or the student does not exist."""
    if args.batch_blocks % args.processes:
        raise InputError(
            f"--batch-blocks {args.batch_blocks}, but --processes {args.processes} "
            "must share them evenly.\n"
            f"  give a multiple of {args.processes}."
        )
    if not student.is_dir():
        raise InputError(
            f"{student}: the student does not exist yet.\n  run make quickstart first."
        )


def run_arm(arm: str, args: argparse.Namespace, trl_side: TrlSide, run_dir: Path) -> Followed:
    """Run one side once and measure it. Raises BenchError if it fails."""
    env: Mapping[str, str | None]
    if arm == "ours":
        command, env = our_command(args, run_dir), {}
    else:
        command = trl_side.command(run_dir)
        if arm == "trl_compile":
            command.append("--compile")
        # None unsets a variable: plain `trl` runs without our launcher's allocator settings.
        env = dict.fromkeys(CPU_ALLOCATOR) if arm == "trl" else CPU_ALLOCATOR
    return follow(
        commands=[command],
        run_dir=run_dir,
        num_steps=args.steps,
        dropped=NUM_DROPPED,
        pin=False,
        threads=num_threads(args),
        env=env,
    )


def print_run(arm: str, followed: Followed) -> None:
    """Print the times and the memory of one run to stderr."""
    seconds = ", ".join(f"{step.seconds:.2f}" for step in followed.steps)
    megabytes = followed.peak_bytes / 1e6
    tqdm.write(f"{arm}: {seconds} s per step, {megabytes:.0f} MB", file=sys.stderr)


def num_threads(args: argparse.Namespace) -> int:
    """Return the number of threads of every process; the comparison is on two cores."""
    return 2 // int(args.processes)


def our_command(args: argparse.Namespace, run_dir: Path) -> list[str]:
    """Return the command of our side: the quickstart's spec without the sense term."""
    config = "zero0" if args.processes == 1 else "zero2"
    settings = [
        f"run_dir={run_dir}",
        f"topology.num_students={args.processes}",
        "topology.num_teachers=1",
        f"train.num_steps={ENDLESS}",
        f"train.global_batch_blocks={args.batch_blocks}",
        f"train.micro_batch_blocks={args.batch_blocks // args.processes}",
        f"deepspeed=ds_configs/{config}.json",
        f"topology.threads_per_rank={num_threads(args)}",
        *PLAIN_TRAINING,
        "loss.sense_weight=0",  # TRL has no such term
        f"loss.signal={args.signal}",
        "student.dtype=float32",
        "teacher.dtype=float32",
        "student.compile=true",
        "teacher.compile=true",
    ]
    command = [tool("deepspeed"), "--num_gpus", str(args.processes + 1)]
    command += ["--master_port", str(free_port())]
    command += ["dskd_ds/train.py", "--spec", QUICKSTART]
    for setting in settings:
        command += ["--set", setting]
    return command


def figures(
    found: dict[str, list[Followed]], tokens: int, args: argparse.Namespace
) -> list[Figure]:
    """Return the ratios of speed and memory. tokens: number of tokens per step."""
    speed = {
        arm: statistics.median(tokens / seconds(run) for run in runs) for arm, runs in found.items()
    }
    memory = {
        arm: statistics.median(run.peak_bytes for run in runs) / 1e6 for arm, runs in found.items()
    }
    # Each figure compares with the TRL run that is best at it.
    best_speed = max(speed[arm] for arm in TRL_ARMS)
    least_memory = min(memory[arm] for arm in TRL_ARMS)
    setting = (
        f"{tokens} tokens per step, signal {args.signal}, "
        f"{args.rounds} runs of {args.steps} steps each, "
        f"{args.processes} student(s) and a teacher / {args.processes} process(es), "
        f"{num_threads(args)} thread(s) each"
    )
    notes = {"setting": setting, "pins": ", ".join(PINS)}
    speeds = {f"{arm} tokens/s": f"{value:.1f}" for arm, value in speed.items()}
    speeds["ratio to TRL as it comes"] = f"{speed['ours'] / speed['trl']:.2f}"
    sizes = {f"{arm} megabytes": f"{value:.0f}" for arm, value in memory.items()}
    return [
        Figure(
            key="tokens_per_second_ratio",
            what="tokens/s: ours / TRL's GKD trainer",
            value=speed["ours"] / best_speed,
            target=1.3,
            better="higher",
            notes={**notes, **speeds},
        ),
        Figure(
            key="peak_memory_ratio",
            what="peak memory of all processes: ours / TRL's",
            value=memory["ours"] / least_memory,
            target=0.7,
            better="lower",
            notes={**notes, **sizes},
        ),
    ]


def seconds(run: Followed) -> float:
    """Return the median seconds per step of a run."""
    return statistics.median(step.seconds for step in run.steps)


if __name__ == "__main__":
    sys.exit(main())

"""This project beside TRL's GKD trainer: the same student, teacher, blocks of tokens, micro-batch and two cores, in turn.

    python tools/side_by_side.py [--json] [--work-dir DIR] [--batch-blocks 4] [--processes 1] [--rounds 5]

Run `make quickstart` first: its student and teacher are compared. TRL gets an environment of its own below --work-dir. What is alike:
float32, forward KL at temperature 1, no on-policy texts, AdamW, clipping at 1. What is not:

- Ours adds cross-entropy, and its KL is over the teacher's top k and a bucket (--signal exact: over all tokens, as TRL's is).
- A TRL process uses its cores in turn for teacher and student; ours are --processes students and one teacher more. Every process
  has 2 / --processes threads. One student takes ZeRO stage 0: a single rank has nothing to shard; two take stage 2.
- TRL is run thrice a round: as it comes, with the allocator settings that our launcher sets, and with these and its `torch_compile`.
  Its best time and its smallest memory count, wherever each was found. Ours has `compile = true` for student and teacher.

Memory is the peak of what is not a file (heap, stacks, shared memory), added over all processes, launcher included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from tqdm import tqdm

from dskd_ds.bench.follow import Followed, follow
from dskd_ds.bench.measure import Figure, as_json, table
from dskd_ds.bench.step import ENDLESS, QUICKSTART
from dskd_ds.errors import InputError
from dskd_ds.runtime.arguments import exit_code_of
from dskd_ds.runtime.console import CPU_ALLOCATOR, quiet_libraries, quiet_progress
from dskd_ds.runtime.launch import free_port, tool
from dskd_ds.spec import load_spec
from dskd_ds.student.depth import INIT_FOLDER

PINS = ("torch==2.13.0", "trl==1.16.0", "transformers==5.23.0")
"""TRL has its GKD trainer at trl.experimental.gkd, which may change from release to release: hence one release."""
NUM_BLOCKS = 64
TRL_ARMS = ("trl", "trl_allocator", "trl_compile")


def main() -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=Path("runs/side_by_side"),
        help="where TRL's environment is kept",
    )
    parser.add_argument(
        "--batch-blocks",
        type=int,
        default=4,
        help="blocks of 256 tokens in a step of either side; each process takes its share at once",
    )
    parser.add_argument(
        "--processes",
        type=int,
        choices=(1, 2),
        default=1,
        help="our students, and TRL's processes (under torchrun)",
    )
    parser.add_argument("--rounds", type=int, default=5, help="times that each is run")
    parser.add_argument(
        "--steps", type=int, default=4, help="steps measured in each run, after two that are not"
    )
    parser.add_argument(
        "--signal", choices=("topk", "exact"), default="topk", help="our teacher signal"
    )
    args = parser.parse_args()
    quiet_libraries()
    quiet_progress()
    return exit_code_of(lambda: show(compare(args), args.json))


def show(figures: list[Figure], json_wanted: bool) -> None:
    """Print what was found."""
    print(as_json(figures) if json_wanted else table(figures))


def trl_python(work_dir: Path) -> str:
    """Python of an environment with TRL; made the first time, torch first so that its CPU build is kept."""
    folder = work_dir.resolve() / "trl-venv"
    python = folder / "bin" / "python"
    if not (folder / ".ready").is_file():
        print(f"making {folder} with {', '.join(PINS)} ...", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True)
        for pin in PINS:
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", pin], check=True)
        (folder / ".ready").touch()
    return str(python)


def compare(args: argparse.Namespace) -> list[Figure]:
    """Run both sides in turn. Raises InputError without a quickstart or an even share, BenchError if a side fails."""
    from dskd_ds.data.batches import open_source
    from dskd_ds.models.named import NamedModel

    if args.batch_blocks % args.processes:
        raise InputError(
            f"--batch-blocks {args.batch_blocks}, but --processes {args.processes} are to share them evenly.\n"
            "  take a multiple."
        )
    spec = load_spec(QUICKSTART)
    student = (Path(spec.run_dir) / INIT_FOLDER).resolve()
    if not student.is_dir():
        raise InputError(f"{student}: there is no student yet.\n  make quickstart first.")
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
        blocks.write_text(
            json.dumps([source.get(place)[1]["input_ids"] for place in range(NUM_BLOCKS)])
        )
        for side in tqdm(
            [side for _ in range(args.rounds) for side in found], desc="runs", unit="run"
        ):
            run_dir = Path(tempfile.mkdtemp(prefix=f"{side}-", dir=folder))
            (run_dir / INIT_FOLDER).symlink_to(student)
            if side == "ours":
                command, env = ours(args, run_dir), {}
            else:
                launcher = (
                    []
                    if args.processes == 1
                    else [
                        "-m",
                        "torch.distributed.run",
                        "--nproc_per_node",
                        str(args.processes),
                        "--master_port",
                        str(free_port()),
                    ]
                )
                command = [
                    python,
                    *launcher,
                    str(Path(__file__).with_name("trl_gkd.py")),
                    "--local_rank=0",
                    "--student",
                    str(student),
                    "--teacher",
                    teacher.path,
                    "--blocks",
                    str(blocks),
                    "--run-dir",
                    str(run_dir),
                    "--threads",
                    str(threads(args)),
                    "--batch-blocks",
                    str(args.batch_blocks // args.processes),
                    "--lr",
                    str(spec.optimizer.lr),
                    "--max-steps",
                    str(ENDLESS),
                    *(["--compile"] if side == "trl_compile" else []),
                ]
                env = dict.fromkeys(CPU_ALLOCATOR) if side == "trl" else CPU_ALLOCATOR
            followed = follow(
                [command], run_dir, args.steps, 2, pin=False, threads=threads(args), env=env
            )
            found[side].append(followed)
            seconds = ", ".join(f"{step.seconds:.2f}" for step in followed.steps)
            tqdm.write(
                f"{side}: {seconds} s a step, {followed.peak_bytes / 1e6:.0f} MB", file=sys.stderr
            )
    return figures(found, args.batch_blocks * spec.data.block_tokens, args)


def threads(args: argparse.Namespace) -> int:
    """Threads of every process."""
    return 2 // int(args.processes)


def ours(args: argparse.Namespace, run_dir: Path) -> list[str]:
    """Our launch: the quickstart's spec without the sense term."""
    config = "zero0" if args.processes == 1 else "zero2"
    settings = [
        f"run_dir={run_dir}",
        f"topology.num_students={args.processes}",
        "topology.num_teachers=1",
        f"train.num_steps={ENDLESS}",
        f"train.global_batch_blocks={args.batch_blocks}",
        f"train.micro_batch_blocks={args.batch_blocks // args.processes}",
        f"deepspeed=ds_configs/{config}.json",
        f"topology.threads_per_rank={threads(args)}",
        "loss.sense_weight=0",
        f"loss.signal={args.signal}",
        "student.dtype=float32",
        "teacher.dtype=float32",
        "student.compile=true",
        "teacher.compile=true",
    ]
    return [
        tool("deepspeed"),
        "--num_gpus",
        str(args.processes + 1),
        "--master_port",
        str(free_port()),
        "dskd_ds/train.py",
        "--spec",
        QUICKSTART,
        *(word for setting in settings for word in ("--set", setting)),
    ]


def figures(
    found: dict[str, list[Followed]], tokens: int, args: argparse.Namespace
) -> list[Figure]:
    """Both ratios, and what they are made of."""
    speed = {
        side: statistics.median(
            tokens / statistics.median(step.seconds for step in run.steps) for run in runs
        )
        for side, runs in found.items()
    }
    memory = {
        side: statistics.median(run.peak_bytes for run in runs) / 1e6
        for side, runs in found.items()
    }
    faster, smaller = max(speed[arm] for arm in TRL_ARMS), min(memory[arm] for arm in TRL_ARMS)
    notes = {
        "setting": f"{tokens} tokens a step, signal {args.signal}, {args.rounds} runs of {args.steps} steps each, "
        f"{args.processes} student(s) and a teacher / {args.processes} process(es), {threads(args)} thread(s) each",
        "pins": ", ".join(PINS),
    }
    speeds = {f"{side} tokens/s": f"{value:.1f}" for side, value in speed.items()}
    speeds["ratio to TRL as it comes"] = f"{speed['ours'] / speed['trl']:.2f}"
    sizes = {f"{side} megabytes": f"{value:.0f}" for side, value in memory.items()}
    return [
        Figure(
            "tokens_per_second_ratio",
            "tokens/s: ours / TRL's GKD trainer",
            speed["ours"] / faster,
            1.3,
            "higher",
            {**notes, **speeds},
        ),
        Figure(
            "peak_memory_ratio",
            "peak memory of all processes: ours / TRL's",
            memory["ours"] / smaller,
            0.7,
            "lower",
            {**notes, **sizes},
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())

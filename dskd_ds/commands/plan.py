"""`dskd plan`: memory, time and teachers of a run, before anything is started."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from dskd_ds.errors import ExitCode, InputError
from dskd_ds.runtime.arguments import Commands, at_least, spec_command

if TYPE_CHECKING:
    from dskd_ds.costs.clusters import Cluster
    from dskd_ds.costs.constants import Constants
    from dskd_ds.costs.run_shapes import RunShapes
    from dskd_ds.costs.search import Split
    from dskd_ds.spec import RunSpec

TEXT = """\
Say whether a run fits into memory, how long it takes, how many teachers it needs, and what travels
between them; nothing is started, and no weights are read. Exit code 2 if it does not fit.

Without --cluster the run is planned for this machine: its memory, and the speeds that
`dskd bench calibrate` measured. --cluster NAME takes a cluster that ships (a100-40, a100-80,
h100-80, h100-96, h200, v100-32), --cluster FILE.toml one of your own with the same keys:

  dskd plan my.toml --cluster h100-80 --tokens 2e9 --picture plan.png
  dskd plan my.toml --cluster a100-80 --search 64

How it is computed: docs/planning.md, "Memory of a student" and "Time"."""


def add_command(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register `dskd plan`."""
    command = spec_command(
        commands, "plan", "memory, time and teachers of a run, before it starts", description=TEXT
    )
    command.add_argument(
        "--cluster", metavar="NAME|FILE", help="where the run is to be (default: this machine)"
    )
    command.add_argument(
        "--tokens", type=at_least(1), metavar="N", help="token budget, instead of the spec's length"
    )
    command.add_argument(
        "--search",
        type=at_least(2),
        metavar="GPUS",
        help="instead of the plan: the fastest splits of so many GPUs into students and teachers",
    )
    command.add_argument(
        "--simulate",
        action="store_true",
        help="also simulate the run with all requests, saves, failures and restarts (--cluster)",
    )
    command.add_argument(
        "--exact",
        action="store_true",
        help="also run the student with fake tensors, to count its activations (loads torch)",
    )
    command.add_argument("--json", action="store_true", help="print the plan as JSON")
    command.add_argument(
        "--picture", type=Path, metavar="FILE.png", help="draw memory and time into this file"
    )
    command.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Print the plan. Returns 2 if the run does not fit, else 0.

    Raises InputError if an option cannot be followed.
    """
    from dskd_ds.costs.plan import make_plan
    from dskd_ds.costs.plan_text import plan_json, plan_text
    from dskd_ds.costs.run_shapes import run_shapes
    from dskd_ds.runtime.arguments import spec_of

    spec = spec_of(args)
    if args.search:
        _refuse_beside_search(args)
    shapes = run_shapes(spec)
    cluster, constants, no_times = place_of(args.cluster)
    if args.search:
        return _search(spec, shapes, cluster, constants, args)
    plan = make_plan(spec, shapes, cluster, constants, tokens=args.tokens, no_times=no_times)
    printed = plan_json(plan)
    lines = [plan_text(plan)]
    if args.simulate:
        from dskd_ds.commands import plan_simulate

        simulated = plan_simulate.simulate_plan(spec, shapes, cluster, constants, args.tokens)
        printed["simulated"] = plan_simulate.simulation_json(simulated)
        lines.append(plan_simulate.simulation_text(simulated, constants))
    if args.exact:
        from dskd_ds.plan.exact_memory import exact_lines, exact_memory

        printed["exact"] = exact_memory(spec, shapes)
        lines += exact_lines(printed["exact"])
    print(json.dumps(printed, indent=1) if args.json else "\n".join(lines))
    if args.picture:
        from dskd_ds.commands.plan_picture import draw_plan

        draw_plan(plan, args.picture)
    return int(ExitCode.WRONG_INPUT if plan.is_refused else ExitCode.DONE)


def place_of(name: str | None) -> tuple[Cluster | None, Constants, str]:
    """Return the cluster that --cluster names, the constants of its times, and an empty text.

    Without a name: this machine as `dskd bench calibrate` measured it, or None and why there are
    no times.
    Raises InputError if the name is unknown or the file invalid.
    """
    from dskd_ds.costs.calibration import calibration_here
    from dskd_ds.costs.clusters import open_cluster
    from dskd_ds.costs.constants import DEFAULT

    if name is not None:
        return open_cluster(name), DEFAULT, ""
    measured, reason = calibration_here()
    if measured is None:
        return None, DEFAULT, reason
    return measured.cluster, measured.constants, ""


def _refuse_beside_search(args: argparse.Namespace) -> None:
    """Raise InputError if an option is given that is about one plan, and not about splits."""
    for name in ("tokens", "simulate", "exact", "picture"):
        if getattr(args, name):
            raise InputError(
                f"--search: it compares splits; --{name} is about a single plan.\n"
                f"  leave out --{name}. Then set the split that you choose in [topology], and plan"
                f" that run with --{name}."
            )


def _search(
    spec: RunSpec,
    shapes: RunShapes,
    cluster: Cluster | None,
    constants: Constants,
    args: argparse.Namespace,
) -> int:
    """Print the fastest splits. Raises InputError without a cluster, or if none fits."""
    from dskd_ds.costs.search import best_splits

    if cluster is None or cluster.architecture == "measured":
        raise InputError("--search: the cluster is unknown.\n  name one: --cluster NAME or FILE.")
    splits = best_splits(spec, shapes, cluster, args.search, constants)
    if args.json:
        print(json.dumps([_split_json(split) for split in splits], indent=1))
        return int(ExitCode.DONE)
    print(f"{'students':>8}{'teachers':>10}{'micro-batch':>13}{'tokens/s':>12}{'GB':>8}  waiting")
    for split in splits:
        step = split.speed.step
        waiting = (step.teacher_wait + step.sense_wait) / step.total
        print(
            f"{split.num_students:>8}{split.num_teachers:>10}{split.micro_batch_blocks:>13}"
            f"{split.tokens_per_second:>12,.0f}{split.student_bytes / 1e9:>8.1f}  {waiting:.0%}"
        )
    blocks = spec.train.global_batch_blocks
    if blocks < args.search // 2:
        print(
            f"at most {blocks} students: [train] global_batch_blocks = {blocks}, and each student"
            " has a block of every step. A larger batch uses more GPUs."
        )
    return int(ExitCode.DONE)


def _split_json(split: Split) -> dict[str, float]:
    """Return a split as data."""
    return {
        "num_students": split.num_students,
        "num_teachers": split.num_teachers,
        "micro_batch_blocks": split.micro_batch_blocks,
        "tokens_per_second": split.tokens_per_second,
        "student_bytes": split.student_bytes,
        "teachers_needed": split.speed.teachers_needed,
    }

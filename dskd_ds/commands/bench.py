"""`dskd bench`: measures objective, wire, saves, whole steps and packing against targets."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from dskd_ds.errors import InputError
from dskd_ds.runtime.arguments import Commands, add_overrides, at_least

if TYPE_CHECKING:
    from dskd_ds.bench.cost import CostCase

TEXT = """\
Measure this machine and print every figure beside its target, as a table or as JSON. Alternatives
are run in turn. Compare only figures of one call, made on a machine that does nothing else. All
benches together take long, so name those that you need with --only:

  workspace, time, gradients, sampled           the objective: memory, time, exactness
  fp8_kl, fp8_sense, bytes_per_token,           what travels: bytes, and what rounding costs
    chosen_bytes, sampled_bytes
  save, step, terms, pack, growth, cache, cost  whole steps and programs; see below

The bench "cost" (--only cost --spec SPEC) measures what the sense term of a run costs: training
time, the student's memory and, with --student twice, inference.

The bench "step" starts 37 real launches of the quickstart's student and teacher, each pinned to a
core, and the bench "cache" 10 launches with and without kept teacher signal: run `make quickstart`
first, and this command in the same folder. The bench "growth" builds three dictionaries, starts a
launch per number of student ranks, and draws its curves to $DSKD_HOME/bench/growth.png. The bench
"save" needs the same student; it compares asynchronous saves with synchronous ones in one process
of one thread. The bench "terms" compares steps with each kind of [[loss.terms]] in the same way, in
17 minutes.

`dskd bench calibrate` measures the speeds of this machine instead, in about a minute, and keeps
them for `dskd plan` and `dskd report`."""


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register `dskd bench`."""
    bench = commands.add_parser(
        "bench",
        help="measure objective, wire, saves, whole steps and packing against their targets",
        description=TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bench.add_argument(
        "what",
        nargs="?",
        choices=["calibrate"],
        help="measure and keep the speeds of this machine, for dskd plan",
    )
    bench.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="run this bench only (may be given several times)",
    )
    cost = bench.add_argument_group("the bench cost")
    cost.add_argument(
        "--spec",
        metavar="SPEC",
        help="run whose sense term is measured; it needs its dictionary, and the untrained student"
        " in its run_dir",
    )
    add_overrides(bench)
    cost.add_argument(
        "--student",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="trained student whose inference is timed: first one without the sense term, then one"
        " with it",
    )
    cost.add_argument(
        "--rounds",
        type=at_least(1),
        default=5,
        metavar="N",
        help="launches of each kind (default 5)",
    )
    bench.add_argument(
        "--json", action="store_true", help="print JSON: {key: value, ..., details, setup}"
    )
    bench.add_argument("--output", metavar="FILE", help="write the JSON into this file too")
    bench.set_defaults(command=run_bench)


def run_bench(args: argparse.Namespace) -> int:
    """Run the chosen benches and print their figures, or calibrate. Raises InputError."""
    from dskd_ds.bench import (
        growth,
        measure,
        objective,
        pack,
        save,
        signal_cache,
        step,
        terms,
        wire,
    )
    from dskd_ds.bench.cost import bench_cost
    from dskd_ds.runtime.console import quiet_progress

    quiet_progress()
    if args.what == "calibrate":
        from dskd_ds.bench.calibrate import calibrate_and_print

        calibrate_and_print(is_json=args.json)
        return 0
    modules = (objective, wire, save, step, terms, pack, growth, signal_cache)
    benches = {name: bench for module in modules for name, bench in module.BENCHES.items()}
    if args.spec is not None:
        case = cost_case(args)
        benches["cost"] = lambda: bench_cost(case)
    elif "cost" in args.only:
        raise InputError(
            "--only cost: this bench measures a run of yours.\n  name its spec: --spec SPEC.toml"
        )
    measure.run_and_print(benches, args.only, args.json, args.output)
    return 0


def cost_case(args: argparse.Namespace) -> CostCase:
    """Return what the bench cost measures. Raises InputError if one student is named alone."""
    from dskd_ds.bench.cost import CostCase

    students: dict[str, str] = {}
    for item in args.student:
        name, _, path = item.partition("=")
        students[name] = path
    if len(students) not in (0, 2) or not all(students.values()):
        raise InputError(
            "--student: inference compares two students, each as NAME=PATH.\n"
            "  example: --student kd=runs/kd/student --student dskd=runs/dskd/student"
        )
    return CostCase(
        spec_file=args.spec,
        overrides=tuple(args.set),
        students=students or None,
        rounds=args.rounds,
    )

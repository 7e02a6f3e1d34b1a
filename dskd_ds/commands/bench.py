"""`dskd bench`: measures objective, wire, whole steps and packing against their targets."""

from __future__ import annotations

import argparse

from dskd_ds.runtime.arguments import Commands

TEXT = """\
Measure this machine and print every figure beside its target, as a table or as JSON. Alternatives
are run in turn. Compare only figures of one call, made on a machine that does nothing else.

The bench "step" starts 37 real launches of the quickstart's student and teacher, each pinned to a
core: run `make quickstart` first, and this command in the same folder."""


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register `dskd bench`."""
    bench = commands.add_parser(
        "bench",
        help="measure objective, wire, whole steps and packing against their targets",
        description=TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bench.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="run this bench only (may be given several times)",
    )
    bench.add_argument(
        "--json", action="store_true", help="print JSON: {key: value, ..., details, setup}"
    )
    bench.set_defaults(command=run_bench)


def run_bench(args: argparse.Namespace) -> int:
    """Run the chosen benches and print their figures."""
    from dskd_ds.bench import growth, measure, objective, pack, step, wire
    from dskd_ds.runtime.console import quiet_progress

    quiet_progress()
    modules = (objective, wire, step, pack, growth)
    benches = {name: bench for module in modules for name, bench in module.BENCHES.items()}
    measure.run_and_print(benches, args.only, args.json)
    return 0

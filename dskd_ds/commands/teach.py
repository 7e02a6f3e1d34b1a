"""`dskd teach`: asks the teacher ahead for all that a run will ask, and keeps it."""

from __future__ import annotations

import argparse

from dskd_ds.errors import InputError
from dskd_ds.runtime.arguments import Commands, add_ranks, spec_command, spec_of
from dskd_ds.spec import RunSpec

TEXT = """\
Let the teacher read every block that the run will train on, and keep its signal in [teacher]
cache_dir. The run then needs no teacher: set [teacher] source = "cache" and [topology]
num_teachers = 0. The same command goes on where it was stopped, and asks only for what the cache
lacks (other blocks, another [loss] top_k, sense positions of another seed).

A block is read once for all epochs. Each rank has a copy of the teacher; the result is the same for
any number of ranks.

A repair and [[loss.terms]] need states of layers, which are not kept: set [repair] steps = 0.

  S="--set teacher.source=cache --set topology.num_teachers=0 --set repair.steps=0"
  dskd teach my.toml --ranks 2 $S
  dskd train my.toml $S"""


def add_command(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register `dskd teach`."""
    command = spec_command(
        commands, "teach", "keep the teacher's signal for a run that needs no teacher", TEXT
    )
    add_ranks(command, "each have a teacher")
    command.set_defaults(command=teach)


def teach(args: argparse.Namespace) -> int:
    """Check the spec and launch the ranks with mpirun; returns the exit code."""
    from dskd_ds.commands.cache import print_teachers
    from dskd_ds.models.named import RunModels
    from dskd_ds.plan.preflight import preflight
    from dskd_ds.plan.whole_teacher import check_whole_teacher
    from dskd_ds.runtime import launch

    spec = spec_of(args)
    check_whole_teacher(spec, "dskd teach")
    check_source(spec)
    # Wrong input is reported here, once, and not by every rank.
    preflight(spec, RunModels.of(spec))
    code = launch.run(launch.fill_command(args.spec, args.set, num_ranks=args.ranks))
    if code == 0:
        print_teachers(spec)
    return code


def check_source(spec: RunSpec) -> None:
    """Raise InputError if the run would not read what is kept."""
    if spec.teacher.source == "live":
        raise InputError(
            '[teacher] source = "live", but a live teacher\'s signal is not kept.\n'
            '  set [teacher] source = "cache" and [topology] num_teachers = 0, or source ='
            ' "cache_or_live".'
        )

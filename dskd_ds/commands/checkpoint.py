"""`dskd checkpoint convert`: makes checkpoints of earlier versions readable."""

from __future__ import annotations

import argparse

from dskd_ds.runtime.arguments import Commands, spec_command, spec_of

TEXT = """\
Convert a checkpoint that an earlier version saved in DeepSpeed's own files (layout 1) into the
present layout. Then `dskd train` resumes from it, with any number of students and any ZeRO stage,
and `dskd export` reads it. Weights and moments keep every bit.

The files are compared with the manifest first, and nothing in them is executed: a file with
anything but tensors and plain values is refused. The original stays in the folder
deepspeed-step-... beside the converted one; delete it when you have resumed. One process, which
holds the weights and moments of one rank at a time."""


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register `dskd checkpoint convert`."""
    parser = commands.add_parser(
        "checkpoint", help="convert checkpoints of earlier versions", description=TEXT
    )
    of_checkpoint = parser.add_subparsers(required=True, metavar="COMMAND")
    command = spec_command(
        of_checkpoint,
        "convert",
        "convert a checkpoint of an earlier version",
        description=TEXT,
    )
    command.add_argument("--tag", help="the checkpoint's folder name (default: the newest old one)")
    command.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Convert a checkpoint and print its folder."""
    from dskd_ds.models.named import RunModels
    from dskd_ds.student.convert import convert_checkpoint

    spec = spec_of(args)
    print(convert_checkpoint(spec, RunModels.of(spec), args.tag))
    return 0

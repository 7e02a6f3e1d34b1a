"""`dskd export`: writes a checkpoint's student as a Hugging Face folder."""

from __future__ import annotations

import argparse

from dskd_ds.runtime.arguments import Commands, spec_command, spec_of


def add_command(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register `dskd export`."""
    command = spec_command(
        commands,
        "export",
        "write a checkpoint's student as a Hugging Face folder (training does so at its end)",
    )
    command.add_argument(
        "--tag", help="the checkpoint's folder name, e.g. step-00000100 (default: the newest)"
    )
    command.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Export a checkpoint and print the folder."""
    from dskd_ds.models.named import RunModels
    from dskd_ds.student.export import export_checkpoint

    spec = spec_of(args)
    print(export_checkpoint(spec, RunModels.of(spec), args.tag))
    return 0

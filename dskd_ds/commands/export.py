"""`dskd export`: writes a checkpoint's student as a Hugging Face folder."""

from __future__ import annotations

import argparse

from dskd_ds.runtime.arguments import Commands, spec_command, spec_of

TEXT = """\
Write the student of a checkpoint to student/ in the run directory, as a Hugging Face folder
with the teacher's tokenizer. Training does so at its end; this command does it for an earlier
checkpoint, or for a run that was stopped. The folder loads without this package:

  AutoModelForCausalLM.from_pretrained("runs/my/student")"""


def add_command(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register `dskd export`."""
    command = spec_command(
        commands,
        "export",
        "write a checkpoint's student as a Hugging Face folder (training does so at its end)",
        description=TEXT,
    )
    command.add_argument(
        "--tag",
        help="the checkpoint's folder name, e.g. step-00000100 (default: the newest); best: the one"
        " with the lowest loss on held-out text, see [checkpoint] keep_best",
    )
    command.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Export a checkpoint and print the folder."""
    from dskd_ds.models.named import RunModels
    from dskd_ds.student.export import export_checkpoint

    spec = spec_of(args)
    print(export_checkpoint(spec, RunModels.of(spec), args.tag))
    return 0

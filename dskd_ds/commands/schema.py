"""`dskd schema`: the JSON schema of run specs, with which editors complete and check keys."""

from __future__ import annotations

import argparse
from pathlib import Path

from dskd_ds.files.output import writing_output
from dskd_ds.runtime.arguments import Commands
from dskd_ds.spec.schema import schema_text

TEXT = """\
Print the JSON schema of run specs: every key with its type, range, default and description.

Editors with a TOML language server (taplo, "Even Better TOML") complete and check a spec whose
first line names the schema: `#:schema PATH`. `dskd init` writes it; the shipped specs have it."""


def add_command(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register `dskd schema`."""
    command = commands.add_parser(
        "schema",
        help="print the JSON schema of run specs, for editors",
        description=TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--output", type=Path, metavar="FILE", help="write to this file instead of the terminal"
    )
    command.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Print or write the schema. Raises InputError if the file cannot be written."""
    if args.output is None:
        print(schema_text(), end="")
        return 0
    with writing_output(args.output):
        args.output.write_text(schema_text(), encoding="utf-8")
    print(f"stored in {args.output}")
    return 0

"""What commands have in common: a spec, overrides, loading both, and an exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from dskd_ds.errors import DskdError, ExitCode
from dskd_ds.spec import RunSpec, load_spec

Commands = argparse._SubParsersAction  # argparse has no public name for what add_subparsers returns


def spec_command(commands: Commands[argparse.ArgumentParser], name: str, text: str, description: str = "") -> argparse.ArgumentParser:
    """Add a command whose first argument is a run's spec. description: what its --help says, if that is more than text."""
    command = commands.add_parser(name, help=text, description=description or text, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("spec", help="the run's TOML spec")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, e.g. train.num_steps=100")
    return command


def spec_of(args: argparse.Namespace) -> RunSpec:
    """The spec that a command's arguments name. Raises InputError."""
    return load_spec(args.spec, args.set)


def exit_code_of(work: Callable[[], object]) -> int:
    """Do the work; an error that a user is meant to read is printed as it is, and gives the exit code."""
    try:
        work()
    except DskdError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    return int(ExitCode.DONE)

"""What command lines have in common: a spec, overrides, loading both, and an exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from dskd_ds.errors import DskdError, ExitCode
from dskd_ds.spec import RunSpec, load_spec

Commands = argparse._SubParsersAction  # argparse has no public name for what add_subparsers returns


def spec_command(
    commands: Commands[argparse.ArgumentParser], name: str, text: str, description: str = ""
) -> argparse.ArgumentParser:
    """Add a command whose first argument is a run's spec.

    text: its line in the list of commands. description: what its own --help says, if that is more than text.
    """
    command = commands.add_parser(
        name,
        help=text,
        description=description or text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("spec", help="the run's TOML spec")
    add_overrides(command)
    return command


def rank_parser(module: str, description: str) -> argparse.ArgumentParser:
    """The parser of a program that a launcher starts on every rank: --spec and --set.

    module: the name after `python -m`.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--spec", required=True, help="the run's TOML spec")
    add_overrides(parser)
    return parser


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add --set, which may be given several times."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the spec, e.g. train.num_steps=100",
    )


def override_words(overrides: Sequence[str]) -> list[str]:
    """Overrides as the words of a command line: --set KEY=VALUE for each."""
    return [word for override in overrides for word in ("--set", override)]


def spec_of(args: argparse.Namespace) -> RunSpec:
    """The spec that a command's arguments name. Raises InputError."""
    return load_spec(args.spec, args.set)


def exit_code_of(work: Callable[[], object]) -> int:
    """Do the work and return the exit code; a DskdError is printed to stderr without a traceback."""
    try:
        work()
    except DskdError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    return int(ExitCode.DONE)
